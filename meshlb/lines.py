"""Lines on their way out: a thread of their own writes them, so that nobody else waits for who reads them.

put ──► waiting ──► written, many at a time
 └──► lost, where no place is left; how many, is a line as soon as lines are read again
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

PLACES = 10_000  # lines that wait
BULK_PLACES = 9_000  # of them for those that come in bulk
BATCH = 256  # lines of one write: our thread gets its turn every five milliseconds while others compute
PATIENCE = 1.0  # seconds after which a write that has not ended has nobody who reads
PAUSE = 0.01


class Lines:
    """Writes what is put. `lacking` makes a line of how many are lost."""

    def __init__(self, write: Callable[[bytes], object], lacking: Callable[[int], str]) -> None:
        self._write, self._lacking = write, lacking
        # A finalizer may put a line at any place, even while its thread puts another: this queue bears that,
        # and so does this lock.
        self._waiting: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._counting = threading.RLock()
        self._lost = 0
        self._moved = time.monotonic()  # when a write began or ended
        self._closed = False
        threading.Thread(target=self._run, name="lines", daemon=True).start()

    def put(self, line: str, bulk: bool = False) -> bool:
        """Have it written; False if it is lost. One of `bulk` waits as long as others are read."""
        if self._has_place(bulk):
            self._waiting.put(line)
            return True
        with self._counting:
            self._lost += 1
        return False

    def flush(self, seconds: float = PATIENCE) -> None:
        """Wait until everything that was put is written, or for so long."""
        written = threading.Event()
        self._waiting.put(written)
        written.wait(seconds)

    def close(self) -> None:
        """Write nothing more."""
        self._closed = True
        self._waiting.put(threading.Event())

    def _has_place(self, bulk: bool) -> bool:
        if not bulk:
            return self._waiting.qsize() < PLACES
        while self._waiting.qsize() >= BULK_PLACES:
            if time.monotonic() - self._moved > PATIENCE:
                return False
            time.sleep(PAUSE)
        return True

    def _run(self) -> None:
        while not self._closed:
            batch = self._next()
            self._out([each for each in batch if isinstance(each, str)])
            if self._lost:
                self._out([self._lacking(self._take_lost())])
            for each in batch:
                if isinstance(each, threading.Event):
                    each.set()

    def _next(self) -> list[str | threading.Event]:
        batch = [self._waiting.get()]
        with suppress(Empty):
            while len(batch) < BATCH:
                batch.append(self._waiting.get_nowait())
        return batch

    def _take_lost(self) -> int:
        with self._counting:
            lost, self._lost = self._lost, 0
        return lost

    def _out(self, lines: list[str]) -> None:
        self._moved = time.monotonic()
        with suppress(OSError, ValueError):  # whoever read has gone, or the file is closed
            self._write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        self._moved = time.monotonic()
