"""What managers told last, on disk: an agent that starts while none is there knows all policies at once.

One small file, replaced as a whole. A disk that is full or read-only is told once and lived without.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from meshlb.model import Desired
from meshlb.peers.identity import IdentityError, load
from meshlb.peers.message import MAX_BYTES, MessageError, Version, decode, encode
from meshlb.statefile import read, replace

FILE = "desired"
EVERY = 5.0  # seconds from one writing to the next, however often it changes
PATIENCE = 0.5  # seconds between looks whether this node's Swarm is known
_FIRST = "meshlb 1 "  # the file's first line, then the Swarm's id
_LONGEST = MAX_BYTES + 300  # bytes, with that line

log = logging.getLogger(__name__)


class Memory:
    """Remembers in a directory. `keep` is called on the event loop, `recall` from any thread.

    `cluster` gives the id of the Swarm that this node is in, empty while that is not known.
    """

    def __init__(self, directory: Path, cluster: Callable[[], str], every: float = EVERY) -> None:
        self._path, self._cluster, self._every = directory / FILE, cluster, every
        self._newest: Desired | None = None
        self._written: tuple[str, Desired] | None = None
        self._changed = asyncio.Event()
        self._writing = threading.Lock()
        self._failed = False

    def recall(self, root: str) -> Desired | None:
        """What was written for the Swarm whose certificates are in Docker's directory `root`. Blocks."""
        try:
            found = read(self._path, _LONGEST)
            return None if found is None else _decoded(found, load(Path(root)).cluster)
        except (OSError, ValueError, IdentityError) as error:
            log.warning("%s is ignored: %s", self._path, error)
        return None

    def keep(self, desired: Desired) -> None:
        """Write this soon. Which tasks are about to stop is not for later."""
        newest = dataclasses.replace(desired, stopping=frozenset())
        if newest != self._newest:
            self._newest = newest
            self._changed.set()

    async def run(self) -> None:
        """Write what is to be kept until cancelled, and then what is not written yet."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while not self._cluster():  # noqa: ASYNC110  # another part comes to know it
                    await asyncio.sleep(min(self._every, PATIENCE))
                if not await asyncio.to_thread(self._write):
                    self._changed.set()
                await asyncio.sleep(self._every)
        finally:
            self._write()

    def _write(self) -> bool:
        """Write the newest, if that is not done yet; whether it is now."""
        with self._writing:
            cluster, newest = self._cluster(), self._newest
            if newest is None or (cluster, newest) == self._written:
                return True
            return bool(cluster) and self._try_to_write(cluster, newest)

    def _try_to_write(self, cluster: str, newest: Desired) -> bool:
        try:
            replace(self._path, _encoded(cluster, newest))
        except (OSError, MessageError) as error:
            self._complain(error)
            return False
        self._written = cluster, newest
        if self._failed:
            log.info("%s is written again", self._path)
        self._failed = False
        return True

    def _complain(self, error: Exception) -> None:
        if not self._failed:
            reason = getattr(error, "strerror", None) or error
            log.warning("cannot keep what managers tell in %s: %s; it goes on without", self._path, reason)
        self._failed = True


def _encoded(cluster: str, desired: Desired) -> bytes:
    return f"{_FIRST}{cluster}\n{encode(Version(FILE, 0), desired)}".encode()


def _decoded(data: bytes, cluster: str) -> Desired | None:
    """ValueError when it is not a file of ours, or of another Swarm."""
    first, _, text = data.decode().partition("\n")
    if not first.startswith(_FIRST):
        raise ValueError("it is not a file of meshlb's, or of another release")
    if first.removeprefix(_FIRST) != cluster:
        raise ValueError("it is of another Swarm")
    return decode(text).desired
