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
LONGEST = 5.0  # seconds that an end waits for who reads slowly
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
        self._torn = ""  # ends the half of a line that a write may have left
        self._moved = time.monotonic()  # when a write began or ended
        self._closed = False
        threading.Thread(target=self._run, name="lines", daemon=True).start()

    def put(self, line: str, bulk: bool = False) -> bool:
        """Have it written; False if it is lost. One of `bulk` waits as long as others are read."""
        if self._has_place(bulk):
            self._waiting.put(line)
            return True
        self._lose(1)
        return False

    def flush(self, longest: float = LONGEST) -> None:
        """Wait until everything that was put is written, as long as somebody reads it."""
        written, began = threading.Event(), time.monotonic()
        self._waiting.put(written)
        while not written.wait(PAUSE):
            now = time.monotonic()
            if now - began > longest or now - max(began, self._moved) > PATIENCE:
                return

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
            self._pass_on([each for each in batch if isinstance(each, str)])
            for each in batch:
                if isinstance(each, threading.Event):
                    each.set()

    def _next(self) -> list[str | threading.Event]:
        batch = [self._waiting.get()]
        with suppress(Empty):
            while len(batch) < BATCH:
                batch.append(self._waiting.get_nowait())
        return batch

    def _pass_on(self, lines: list[str]) -> None:
        if lines and not self._out(lines):
            self._lose(len(lines))
        lost = self._lost
        if lost and self._out([self._lacking(lost)]):
            self._lose(-lost)

    def _lose(self, count: int) -> None:
        with self._counting:
            self._lost += count

    def _out(self, lines: list[str]) -> bool:
        """Whether they are written, all of them: a write may end midway."""
        text, self._torn = self._torn + "".join(f"{line}\n" for line in lines), "\n"
        self._moved = time.monotonic()
        with suppress(Exception):  # whoever read has gone, or the disk is full: the next ones may be written
            self._write(text.encode("utf-8", "backslashreplace"))
            self._torn = ""
        self._moved = time.monotonic()
        return not self._torn
