"""The `nft -i` child that owns our nftables table, and the commands that it is given.

The table has the `owner` flag: it belongs to the process that made it, survives `nft flush ruleset`, and
vanishes with that process. The child ends when its standard input closes, and the kernel closes that whenever
and however the agent ends. Each agent's table has a name of its own: one that takes over from another has its
redirects in force beside the other's, whose table goes when its last connections have ended.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from meshlb.model import Protocol

PublishedPort = tuple[int, Protocol]
Redirects = Mapping[PublishedPort, int]

TABLE = "inet meshlb"  # what the names of all agents' tables begin with
OWNED = (5, 12)  # the first Linux with tables that belong to a process
PATIENCE = 5.0  # seconds that one transaction may take; the usual one takes milliseconds


class NftError(Exception):
    """nft refused a transaction, ended, or does not answer. The text is a whole sentence."""


def own_table() -> str:
    """A name that no other agent's table has."""
    return f"{TABLE}_{secrets.token_hex(4)}"


def too_old(error: NftError | OSError) -> str:
    """What is needed where nft was refused a table by a kernel whose tables belong to nobody; else empty."""
    version = linux_version(os.uname().release)
    refused = isinstance(error, NftError) and re.search("not supported|Invalid argument", str(error))
    return "Linux 5.12 or newer is needed" if refused and version is not None and version < OWNED else ""


def linux_version(release: str) -> tuple[int, int] | None:
    """The first two numbers of a kernel's release; None where it has none."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else None


def creation(table: str, redirects: Redirects) -> str:
    """The one transaction that makes the table with all its redirects."""
    maps = "".join(f"map {p}_ports {{ type inet_service : inet_service; }}; " for p in Protocol)
    # `dnat to :port` keeps the address that was called, where `redirect` would put the interface's first.
    rules = "".join(
        f"meta l4proto {p} fib daddr type local dnat to :{p} dport map @{p}_ports; " for p in Protocol
    )
    chains = "".join(
        f"chain {hook} {{ type nat hook {hook} priority -110; {rules}}}; "
        for hook in ("prerouting", "output")
    )
    return f"add table {table} {{ flags owner; {maps}{chains}}}; {change(table, {}, redirects)}"


def change(table: str, old: Redirects, new: Redirects) -> str:
    """The one transaction that leads from `old` to `new`; empty where they are the same."""
    gone = [key for key in old if new.get(key) != old[key]]
    added = [key for key in new if new[key] != old.get(key)]
    commands = [*_elements(f"delete element {table}", {key: str(key[0]) for key in gone})]
    commands += _elements(f"add element {table}", {key: f"{key[0]} : {new[key]}" for key in added})
    return "; ".join(commands)


def _elements(verb: str, elements: Mapping[PublishedPort, str]) -> Iterator[str]:
    for protocol in Protocol:
        if mine := [text for key, text in sorted(elements.items()) if key[1] is protocol]:
            yield f"{verb} {protocol}_ports {{ {', '.join(mine)} }}"


class NftChild:
    """An `nft -i` process that owns the table for as long as it lives.

    nft prints nothing on success, so each transaction is followed by a word that it cannot understand: when
    the complaint about that word arrives, all that came before is what nft has to say about the transaction.
    """

    def __init__(self, command: Sequence[str] = ("nft", "-i")) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # some builds echo a prompt there
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the agent's: the redirects must outlive its drain
            env={**os.environ, "LC_ALL": "C", "HOME": os.devnull},  # no ~/.nft.history
        )
        self._words = itertools.count(1)
        for pipe in (self._stdin, self._stderr):
            os.set_blocking(pipe.fileno(), False)

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101  Popen was asked for a pipe
        return self._process.stdin

    @property
    def _stderr(self) -> IO[bytes]:
        assert self._process.stderr is not None  # noqa: S101  Popen was asked for a pipe
        return self._process.stderr

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process, and so the table, is still there."""
        return self._process.poll() is None

    def run(self, transaction: str) -> None:
        """Have one line of commands done, as one atomic transaction. Raises NftError."""
        word = f"meshlb_done_{next(self._words)}"
        lines = self._converse(f"{transaction}\n{word}\n".encode(), word)
        complaints = [line for line in lines if "Error:" in line or "not permitted" in line]
        if len(complaints) > 1:  # the last one is about our word
            raise NftError(complaints[0].partition("Error: ")[2] or complaints[0])

    def end(self) -> None:
        """Take the table away. Bounded: a child that does not hear is killed."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _converse(self, unsent: bytes, word: str) -> list[str]:
        """Send, and collect what nft says until it says `word` alone on a line."""
        heard = b""
        deadline = time.monotonic() + PATIENCE
        while word not in (lines := heard.decode(errors="replace").split("\n"))[:-1]:
            # poll, not select: the agent may have more than 1024 descriptors.
            poll = select.poll()
            poll.register(self._stderr, select.POLLIN)
            if unsent:
                poll.register(self._stdin, select.POLLOUT)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise NftError(f"nft has not answered for {PATIENCE:g} s")
            unsent = self._send(unsent)
            heard += self._hear()
        return lines[: lines.index(word)]

    def _send(self, unsent: bytes) -> bytes:
        try:
            return unsent[os.write(self._stdin.fileno(), unsent) :] if unsent else unsent
        except BlockingIOError:
            return unsent
        except BrokenPipeError:
            return b""  # it has ended; what it said on the way is still to be heard

    def _hear(self) -> bytes:
        try:
            heard = os.read(self._stderr.fileno(), 65536)
        except BlockingIOError:
            return b""
        if not heard:
            raise NftError(f"nft ended with status {self._process.wait(1)}")
        return heard
