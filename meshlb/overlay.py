"""Keeps the ways over Docker's overlay to nodes that gossip has lost, though they are there.

When gossip gives a node up, Docker removes every address behind it from the kernel's tables, and puts them
back when gossip has found it again: up to half a minute later for a link that was cut for three seconds (seen
on 20.10). Until then nothing crosses the overlay between the two. So what is removed of such a node is put
back at once, in states that Docker's own entries never have: when Docker replaces an entry of ours, that
shows, and the kernel forgets a forwarding that nobody replaces or uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from meshlb.kernel.neighbours import CONNECTED, NOARP, PERMANENT, REACHABLE, Key, Neighbour, Neighbours

MOST = 16_384  # entries that are remembered
RECENT = 15.0  # seconds between an entry's removal and the view's word that its node is lost, at the most
GRACE = 5.0  # seconds that Docker may take to replace ours when gossip has found the node again

log = logging.getLogger(__name__)


class Ways:
    """What the tables hold, and held of whom. Pure."""

    def __init__(self) -> None:
        self._here: dict[Key, Neighbour] = {}
        self._gone: dict[Key, tuple[Neighbour, float]] = {}
        self._behind: dict[bytes, str] = {}  # the host that a hardware address was last behind
        self._ours: set[Key] = set()

    def take(self, put: bool, entry: Neighbour, now: float) -> None:
        """An entry was put into a table or taken out of it."""
        key = entry.key
        if put and entry.state & CONNECTED:
            self._put(key, entry)
            return
        self._ours.discard(key)
        known = self._here.pop(key, None)
        if known and known.state & PERMANENT:  # what the kernel has learned by itself it learns again
            self._gone[key] = known, now

    def missing(self, hosts: Collection[str], now: float) -> list[Neighbour]:
        """What was removed of these hosts, as it is to be put back."""
        self._gone = {
            key: (entry, since)
            for key, (entry, since) in self._gone.items()
            if now - since < RECENT or self._host(entry) in hosts
        }
        wanted = [entry for entry, _ in self._gone.values() if self._host(entry) in hosts]
        self._ours |= {entry.key for entry in wanted}
        return [replace(entry, state=REACHABLE if entry.forwarding else NOARP) for entry in wanted]

    def needless(self, hosts: Collection[str]) -> list[Neighbour]:
        """What was put back of other hosts than these; Docker has not replaced it."""
        ours = [self._here[key] for key in self._ours if key in self._here]
        return [entry for entry in ours if self._host(entry) not in hosts]

    def _put(self, key: Key, entry: Neighbour) -> None:
        if len(self._here) >= MOST and key not in self._here:
            return
        self._here[key] = entry
        self._gone.pop(key, None)
        if entry.state & PERMANENT:
            self._ours.discard(key)
        if entry.forwarding and (len(self._behind) < MOST or entry.hardware in self._behind):
            self._behind[entry.hardware] = entry.address

    def _host(self, entry: Neighbour) -> str:
        return entry.address if entry.forwarding else self._behind.get(entry.hardware, "")


class Overlay:
    """Follows one namespace's tables on the event loop. `enter` takes the calling thread into a namespace."""

    def __init__(self, enter: Callable[[int], None]) -> None:
        self._enter = enter
        self._ways = Ways()
        self._tables: Neighbours | None = None
        self._inode = 0
        self._lost: frozenset[str] = frozenset()
        self._tidying: asyncio.TimerHandle | None = None
        self._problem = ""

    def keep(self, path: str, lost: frozenset[str]) -> None:
        """Keep the ways to these hosts, in the overlay whose namespace file is at `path`."""
        try:
            self._follow(Path(path))
        except FileNotFoundError:  # dockerd is not there, which is told elsewhere
            return
        except OSError as error:
            self._fault(f"the overlay's namespace {path} cannot be followed", error)
            return
        found, self._lost = self._lost - lost, lost
        self._restore()
        if found:
            self._tidy_later()

    def close(self) -> None:
        """Follow no more. What was put back stays until Docker or the kernel removes it."""
        if self._tidying:
            self._tidying.cancel()
        if self._tables:
            asyncio.get_running_loop().remove_reader(self._tables.fileno())
            self._tables.close()
            self._tables = None

    def _follow(self, path: Path) -> None:
        inode = path.stat().st_ino
        if self._tables and inode == self._inode:
            return
        self.close()
        self._ways = Ways()
        tables = Neighbours(path, self._enter)
        try:
            self._list(tables)
        except OSError:
            tables.close()
            raise
        asyncio.get_running_loop().add_reader(tables.fileno(), self._read)
        self._tables, self._inode, self._problem = tables, inode, ""

    def _list(self, tables: Neighbours) -> None:
        for entry in tables.all():
            self._ways.take(True, entry, time.monotonic())

    def _read(self) -> None:
        if self._tables is None:
            return
        try:
            changes = self._tables.changes()
        except OSError:  # more than there is room for: `keep` begins anew
            self.close()
            return
        for put, entry in changes:
            self._ways.take(put, entry, time.monotonic())
        if self._lost:
            self._restore()

    def _restore(self) -> None:
        missing = self._ways.missing(self._lost, time.monotonic())
        if self._change(Neighbours.put, missing):
            hosts = ", ".join(sorted(self._lost))
            log.info(
                "gossip has lost %s: %d of Docker's entries for the overlay are kept", hosts, len(missing)
            )

    def _tidy_later(self) -> None:
        if self._tidying:
            self._tidying.cancel()
        self._tidying = asyncio.get_running_loop().call_later(GRACE, self._tidy)

    def _tidy(self) -> None:
        self._change(Neighbours.remove, self._ways.needless(self._lost))

    def _change(self, what: Callable[[Neighbours, Neighbour], None], entries: Collection[Neighbour]) -> bool:
        """Whether anything was to be done, and was."""
        if self._tables is None or not entries:
            return False
        try:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    what(self._tables, entry)
        except OSError as error:
            self._fault("the overlay's addresses cannot be changed", error)
            return False
        return True

    def _fault(self, problem: str, error: OSError) -> None:
        if problem != self._problem:
            reason = os.strerror(error.errno) if error.errno else error
            log.warning("%s (%s): a node that gossip loses for a moment is out of reach", problem, reason)
        self._problem = problem
