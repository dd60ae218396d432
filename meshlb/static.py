"""Follows a TOML file of published ports, for machines without a Swarm. What it says: `portfile.py`."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from meshlb.errors import ConfigError
from meshlb.model import Snapshot, SourceStatus
from meshlb.portfile import parse
from meshlb.ports.addresses import LOOPBACK, own_addresses

MAX_BYTES = 1 << 20

log = logging.getLogger(__name__)


class StaticSource:
    """Follows one file. The first reading happens here: a bad file is a ConfigError at once.

    Later a bad file only changes `status().problem`; the snapshot of before stays. The file is looked at
    by `stat` every `poll_interval` seconds rather than watched by inotify: a stat costs a microsecond, and it
    also sees what watches miss, such as a replaced symlink, a bind mount or a network file system.
    """

    def __init__(self, path: Path, poll_interval: float = 1.0) -> None:
        self._path, self._poll_interval = path, poll_interval
        self._loaded = self._seen = _stamp(path)
        self._snapshot = load(path)
        self._problem = ""
        self._reading = asyncio.Lock()
        self._changed = asyncio.Event()

    def status(self) -> SourceStatus:
        """Always connected: the last good file counts. `problem` says why the newest one does not."""
        return SourceStatus("static", connected=True, problem=self._problem)

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """The file's snapshot now and at every change; never ends."""
        told = None
        while True:
            self._changed.clear()
            if self._snapshot != told:
                told = self._snapshot
                yield told
            try:
                async with asyncio.timeout(self._poll_interval):
                    await self._changed.wait()
            except TimeoutError:
                await self._look()

    async def reload(self) -> None:
        """Read the file now, as SIGHUP asks; returns when it is taken or refused."""
        async with self._reading:
            # The stamp is older than what is read, so a change in between is seen by the next look.
            self._loaded = self._seen = await asyncio.to_thread(_stamp, self._path)
            try:
                snapshot = await asyncio.to_thread(load, self._path)
            except ConfigError as error:
                self._problem = str(error)
                log.error("%s; the ports of the last good file are still served", error)
            else:
                self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        news = "no change" if snapshot == self._snapshot else "taken"
        log.info("%s: read again, %s, %d ports", self._path, news, len(snapshot.services))
        self._problem, self._snapshot = "", snapshot
        self._changed.set()

    async def _look(self) -> None:
        """Reload a changed file once it rests, so that a half-written one is not taken for the whole."""
        stamp = await asyncio.to_thread(_stamp, self._path)
        rests, self._seen = stamp == self._seen, stamp
        if rests and stamp != self._loaded:
            await self.reload()


def load(path: Path) -> Snapshot:
    """The snapshot of the file at `path`; ConfigError names the file, the line and the reason."""
    data = _read(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error
    return parse(text, str(path), _own())


def _own() -> frozenset[str]:
    try:
        return own_addresses()
    except OSError as error:
        log.debug("the kernel does not tell this node's addresses: %s", error)
        return LOOPBACK


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:  # Path.open has no opener
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: not a file; name a TOML file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 10} KiB; split it over several agents")
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would have us wait for its writer


def _stamp(path: Path) -> tuple[int, ...]:
    """What differs when the file was written or replaced; empty when it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
