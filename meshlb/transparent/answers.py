"""The way back of answers to clients' own addresses, where this node's sockets to tasks are.

A socket that is bound to a client's address (IP_TRANSPARENT) gets its answers only if they are taken for this
host's own: a table of nftables marks what belongs to such a socket, and a route delivers what is marked.
The table belongs to a child of the agent and vanishes with it; the route serves marked packets alone.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from meshlb.kernel import routing, sockets
from meshlb.kernel.nft import TABLE, NftChild, NftError, own_table, too_old
from meshlb.kernel.visit import Enter, visit

NO_NFT = "nft is not there: install nftables"
HEEDED = "{0} is set in Docker's namespace: nsenter --net=/run/docker/netns/ingress_sbox sysctl -w {0}=0"
MARK = 0x4D4C0000  # of answers; the lower half is 0, see `task_ways`

log = logging.getLogger(__name__)


class Answers:
    """Makes the way back in one namespace at a time. Its calls block; one thread at a time calls."""

    def __init__(self, enter: Enter, start: Callable[[], NftChild] = NftChild) -> None:
        self.problem = ""  # one sentence; empty while there is a way, or none is wanted
        self.inode = 0  # of the namespace that the way is in
        self.network: ipaddress.IPv4Network | None = None  # that tasks are reached in, as far as is known
        self._enter, self._start = enter, start
        self._child: NftChild | None = None
        self._path = Path()

    @property
    def is_open(self) -> bool:
        """Whether there is a way, as far as can be seen from outside."""
        return self._child is not None and self._child.alive

    def open(self, path: Path) -> bool:
        """Make the way, in the namespace whose file is at `path`. Whether there is one."""
        try:
            inode = path.stat().st_ino
            if self.is_open and (self._path, self.inode) == (path, inode):
                visit(path, self._enter, lambda: routing.to_here(MARK))  # an agent that has ended took it
                return True
            self.close()
            self._child = visit(path, self._enter, self._made)
        except (NftError, OSError) as error:
            self._fault(error)
            return False
        self._path, self.inode, self.problem = path, inode, ""
        return True

    def used(self) -> bool:
        """Whether sockets are left that have clients' addresses. Looks at all of the namespace."""
        network = self.network
        if network is None or not self._is_there():
            return False
        try:
            return visit(self._path, self._enter, lambda: sockets.face_outside(network))
        except OSError:
            return False

    def close(self) -> None:
        """Take the way back, but for the route where another agent has a table there."""
        if self._child is None:
            return
        self._child.end()
        self._child = None
        if self._is_there():
            try:
                visit(self._path, self._enter, _forget)
            except (OSError, subprocess.TimeoutExpired) as error:
                log.debug("the namespace %s has gone before its route: %s", self._path, error)

    def _is_there(self) -> bool:
        try:
            return self._path.stat().st_ino == self.inode
        except OSError:
            return False

    def _made(self) -> NftChild:
        _try_transparent()
        _heed_no_marks()
        child = self._start()
        try:
            # After Docker's own marks, at -150, which are for what comes to a published port.
            chain = "type filter hook prerouting priority -149"
            child.run(
                f"add table {own_table()} {{ flags owner; chain answers {{ {chain}; "
                f"meta nfproto ipv4 socket transparent 1 meta mark set {MARK:#x}; }}; }}"
            )
            routing.to_here(MARK)  # last: an agent that ends removes it where it sees no table
        except BaseException:
            child.end()
            raise
        return child

    def _fault(self, error: NftError | OSError) -> None:
        problem = ": ".join(filter(None, (words(error), too_old(error))))
        if problem != self.problem:
            log.warning("clients' own addresses cannot be shown from this node: %s", problem)
        self.problem = problem


def words(error: NftError | OSError) -> str:
    """What went wrong, for the user."""
    if isinstance(error, FileNotFoundError) and error.filename == "nft":
        return NO_NFT
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _heed_no_marks() -> None:
    """Where marks count for who may have sent a packet (as wg-quick has it), answers are dropped."""
    places = Path("/proc/sys/net/ipv4/conf").glob("*/src_valid_mark")
    for place in (place for place in places if place.read_text().strip() != "0"):
        try:
            place.write_text("0")
        except OSError as error:
            setting = f"net.ipv4.conf.{place.parent.name}.src_valid_mark"
            raise OSError(error.errno, HEEDED.format(setting)) from error


def _try_transparent() -> None:
    with socket.socket() as any_socket:
        try:
            any_socket.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        except OSError as error:
            what = "the kernel gives no socket a client's address"
            raise NftError(
                f"{what} ({error.strerror}): run the agent as root, or give it CAP_NET_ADMIN"
            ) from None


def _forget() -> None:
    """The tables' names tell whether another agent is here: all begin with the same word."""
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=5, check=False)
    if TABLE not in listed.stdout:
        routing.remove(MARK)
