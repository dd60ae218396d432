"""What others told last, on disk: an agent that starts knows at once what it would else hear only later.

So it knows all policies while no manager is there, and which tasks of other nodes may see clients' own
addresses. One small file for each, replaced as a whole. A disk that is full or read-only is told once and
lived without.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from meshlb.model import Prepared
from meshlb.peers.identity import IdentityError, load
from meshlb.peers.message import (
    MAX_BYTES,
    MessageError,
    Version,
    decode,
    encode,
    prepared_in,
    prepared_out,
)
from meshlb.statefile import read, replace

EVERY = 5.0  # seconds from one writing to the next, however often it changes
PATIENCE = 0.5  # seconds between looks whether this node's Swarm is known
_FIRST = "meshlb 1 "  # the file's first line, then the Swarm's id
_LONGEST = MAX_BYTES + 300  # bytes, with that line

log = logging.getLogger(__name__)
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True)
class What(Generic[Kept]):
    """What is remembered: the file's name, and the text in it. `lasting` leaves out what is not for later."""

    file: str
    encode: Callable[[Kept], str]  # MessageError when it is too much
    decode: Callable[[str], Kept | None]  # ValueError when it is none
    lasting: Callable[[Kept], Kept] = lambda told: told


def _prepared_text(told: Mapping[str, Prepared]) -> str:
    text = json.dumps({address: prepared_out(prepared) for address, prepared in told.items()})
    if len(text) > MAX_BYTES:
        raise MessageError(f"it is {len(text)} bytes long; {MAX_BYTES} are allowed")
    return text


def _prepared_told(text: str) -> Mapping[str, Prepared]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise MessageError("it is not an object")
    return {address: prepared_in(prepared) for address, prepared in found.items()}


# Of services: what managers tell. Which tasks are about to stop is not for later, and all is old by then.
DESIRED = What(
    "desired",
    lambda desired: encode(Version("desired", 0), desired),
    lambda text: decode(text).desired,
    lambda desired: dataclasses.replace(desired, stopping=frozenset(), old=False),
)
# By the addresses of nodes: what they have prepared for clients' own addresses.
PREPARED = What("prepared", _prepared_text, _prepared_told)


class Memory(Generic[Kept]):
    """Remembers in a directory. `keep` is called on the event loop, `recall` from any thread.

    `cluster` gives the id of the Swarm that this node is in, empty while that is not known.
    """

    def __init__(
        self, directory: Path, cluster: Callable[[], str], what: What[Kept], every: float = EVERY
    ) -> None:
        self._path, self._cluster, self._what, self._every = directory / what.file, cluster, what, every
        self._newest: Kept | None = None
        self._of = ""  # the Swarm that it was told of, where that was known by then
        self._written: tuple[str, Kept] | None = None
        self._changed = asyncio.Event()
        self._writing = threading.Lock()
        self._failed = False

    def recall(self, root: str) -> Kept | None:
        """What was written for the Swarm whose certificates are in Docker's directory `root`. Blocks."""
        try:
            found = read(self._path, _LONGEST)
            return None if found is None else self._what.decode(_body(found, load(Path(root)).cluster))
        except (OSError, ValueError, IdentityError, RecursionError) as error:
            log.warning("%s is ignored: %s", self._path, error)
        return None

    def keep(self, told: Kept) -> None:
        """Write this soon."""
        newest = self._what.lasting(told)
        if newest != self._newest:
            self._newest, self._of = newest, self._cluster()
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
            if newest is None or (cluster, newest) == self._written or self._of not in ("", cluster):
                return True
            return bool(cluster) and self._try_to_write(cluster, newest)

    def _try_to_write(self, cluster: str, newest: Kept) -> bool:
        try:
            replace(self._path, f"{_FIRST}{cluster}\n{self._what.encode(newest)}".encode())
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
            log.warning("cannot keep what others tell in %s: %s; it goes on without", self._path, reason)
        self._failed = True


def _body(data: bytes, cluster: str) -> str:
    """What follows the first line. ValueError when it is not a file of ours, or of another Swarm."""
    first, _, text = data.decode().partition("\n")
    if not first.startswith(_FIRST):
        raise ValueError("it is not a file of meshlb's, or of another release")
    if first.removeprefix(_FIRST) != cluster:
        raise ValueError("it is of another Swarm")
    return text
