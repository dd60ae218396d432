"""Who this node is in its Swarm, and who a peer is: Swarm's own certificates as TLS contexts.

Swarm keeps `swarm-node.crt`, `swarm-node.key` and `swarm-root-ca.crt` on every node. The certificate names
the node (CN), its role (OU) and the Swarm (O), and serves for both ends of a connection. Swarm renews it
long before its 90 days end, and gives a node another one when it is promoted or demoted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshlb.errors import MeshError

MANAGER, WORKER = "swarm-manager", "swarm-worker"

_CERTIFICATE, _KEY, _ROOT = FILES = ("swarm-node.crt", "swarm-node.key", "swarm-root-ca.crt")
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----\s+(.*?)-----END \1-----", re.DOTALL)
_MISMATCH = "KEY_VALUES_MISMATCH"
_PATIENCE = (
    0.05,
    0.1,
    0.2,
    0.4,
    0.8,
)  # seconds between attempts; Swarm replaces the files within microseconds


class IdentityError(MeshError):
    """A certificate cannot be used, or is not one that we may trust."""


class MissingError(IdentityError):
    """There are no certificates: the node is not in a Swarm, or another directory is Docker's."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What a certificate of Swarm's says of a node."""

    node_id: str
    role: str
    cluster: str

    @property
    def manager(self) -> bool:
        """Whether Swarm itself vouches for this node as a manager."""
        return self.role == MANAGER


@dataclass(frozen=True, slots=True)
class Identity:
    """This node's own certificate, ready for both ends of a connection. Never changed, only replaced."""

    node_id: str
    role: str
    cluster: str
    server: ssl.SSLContext
    client: ssl.SSLContext


def load(root: Path) -> Identity:
    """The identity in Docker's data directory `root`. IdentityError says what keeps it from being used."""
    certificate, key, authority = (_read(root / "swarm" / "certificates" / name) for name in FILES)
    files = certificate, plain_key(key), authority
    try:
        server = _context(ssl.PROTOCOL_TLS_SERVER, *files)
        client = _context(ssl.PROTOCOL_TLS_CLIENT, *files)
        own = _introduce(server, _context(ssl.PROTOCOL_TLS_CLIENT, *files))
    except (ssl.SSLError, ValueError) as error:
        raise _unusable(root, error) from error
    except OSError as error:  # no descriptor, no memory
        raise IdentityError(f"the node's certificate cannot be read: {error.strerror}") from error
    return Identity(own.node_id, own.role, own.cluster, server, client)


def peer_of(ssl_object: Any, cluster: str = "") -> Peer:
    """Who is at the other end. IdentityError for no certificate, an unclear one, or another Swarm's."""
    # OpenSSL has verified the chain by now; getpeercert() is empty for a certificate that nobody verified.
    found = ssl_object.getpeercert() if ssl_object is not None else None
    if not found:
        raise IdentityError("the peer has shown no certificate of the Swarm")
    names = [pair for part in found.get("subject", ()) for pair in part]
    peer = Peer(*(_only(names, key) for key in ("commonName", "organizationalUnitName", "organizationName")))
    if peer.role not in (MANAGER, WORKER):
        raise IdentityError(f'the peer\'s certificate gives it the role "{peer.role}", which Swarm has not')
    if cluster and peer.cluster != cluster:
        raise IdentityError(f"the peer {peer.node_id} belongs to another Swarm ({peer.cluster})")
    return peer


def _only(names: list[tuple[str, str]], key: str) -> str:
    values = [value for name, value in names if name == key]
    if len(values) != 1 or not values[0]:
        raise IdentityError(f"the peer's certificate has {len(values)} times {key}; Swarm's have it once")
    return values[0]


def plain_key(text: bytes) -> bytes:
    """The key without the PEM headers that Swarm adds (`kek-version`, `raft-dek`) and OpenSSL rejects."""
    match = _PEM.search(text)
    if not match:
        raise IdentityError("Swarm's key file swarm-node.key holds no key; is the disk full?")
    name, body = match[1], match[2].splitlines()
    if b"ENCRYPTED" in name or any(b"ENCRYPTED" in line for line in body if b":" in line):
        raise IdentityError(
            "Swarm's autolock keeps this node's key encrypted, so agents cannot use it to know each other;"
            " turn it off with: docker swarm update --autolock=false"
        )
    lines = [line for line in body if line.strip() and b":" not in line]
    return b"\n".join([b"-----BEGIN %s-----" % name, *lines, b"-----END %s-----" % name, b""])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(f"Swarm's certificate file {path} is missing; is this node in a Swarm?") from error
    except PermissionError as error:
        raise IdentityError(f"no permission to read {path}; run meshlb-agent as root") from error
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from error


def _context(protocol: int, certificate: bytes, key: bytes, authority: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Whoever has a certificate of this Swarm is let in; `peer_of` tells by it who that is.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.decode("ascii"))
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # no resumption: every connection shows its certificate
    # OpenSSL takes the pair from files only. These are in memory, and nobody else's.
    with _memory_file(certificate) as first, _memory_file(key) as second:
        context.load_cert_chain(first, second, password="")  # never ask at the terminal
    return context


@contextlib.contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    descriptor = os.memfd_create("meshlb", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _introduce(server: ssl.SSLContext, client: ssl.SSLContext) -> Peer:
    """Who we are to others: we connect to ourselves, in memory, as Python reads no certificate but a peer's.

    It also proves that the pair is of this Swarm's authority and valid today. `client` is spoilt by it.
    """
    inwards, outwards = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepted = server.wrap_bio(inwards, outwards, server_side=True)
    connected = client.wrap_bio(outwards, inwards)
    waiting = [connected, accepted]
    for _ in range(8):  # TLS 1.3 needs two turns
        for end in tuple(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                waiting.remove(end)
        if not waiting:
            return peer_of(accepted)
    raise ValueError("its handshake with itself does not end")


def _unusable(root: Path, error: Exception) -> IdentityError:
    place = root / "swarm" / "certificates"
    if isinstance(error, ssl.SSLError) and error.reason == _MISMATCH:
        return _MismatchError(f"{place / _CERTIFICATE} and {_KEY} do not belong together; restart dockerd")
    reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
    return IdentityError(
        f"Swarm's certificate {place / _CERTIFICATE} cannot be used: {reason};"
        " is the clock right, and does docker node ls show this node as ready?"
    )


class _MismatchError(IdentityError):
    """The files are of two generations: Swarm is replacing them just now."""


async def load_patiently(root: Path) -> Identity:
    """As `load`, but Swarm gets a moment to finish replacing the files, which it does one by one."""
    for delay in _PATIENCE:
        try:
            return await asyncio.to_thread(load, root)
        except _MismatchError:
            await asyncio.sleep(delay)
    return await asyncio.to_thread(load, root)


class Keeper:
    """Holds this node's identity and reads it anew when the files change.

    An identity that was good stays in use when the files cannot be read any more, for its connections are
    still what Swarm vouched for; but not when they are gone, as then the node has left the Swarm.
    """

    def __init__(
        self, root: Path, tell: Callable[[str], None], changed: Callable[[], None], every: float
    ) -> None:
        self._root, self._tell, self._changed, self._every = root, tell, changed, every
        self.renewed: Callable[[], None] = lambda: None  # hears of every identity that is taken
        self._seen: object = None
        self.current: Identity | None = None

    async def run(self) -> None:
        """Look until cancelled. `tell` hears what is wrong, `changed` that this node is in another Swarm."""
        while True:
            await self.look()
            await asyncio.sleep(self._every)

    async def look(self) -> None:
        """Read the files if they are not those of the last good reading."""
        seen = await asyncio.to_thread(_stamp, self._root)
        if seen == self._seen:
            return
        try:
            self._take(await load_patiently(self._root))
            self._seen = seen  # older than what was read, so that a change in between is seen next time
            self._tell("")
        except MissingError as error:
            self._take(None)
            self._tell(str(error))
        except IdentityError as error:
            self._tell(str(error))

    def _take(self, new: Identity | None) -> None:
        old, self.current = self.current, new
        if old and (new is None or new.cluster != old.cluster):
            self._seen = None
            self._changed()
        self.renewed()


def _stamp(root: Path) -> object:
    """A value that differs when a file was replaced; errors count as a value too."""
    return tuple(_stamp_of(root / "swarm" / "certificates" / name) for name in FILES)


def _stamp_of(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno or errno.EIO,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
