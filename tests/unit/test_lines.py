"""Who does not read the log holds up nobody; who reads it gets all of it, or how much is missing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from waiting import eventually

from meshlb import access_log, lines, logs
from meshlb.lines import Lines
from meshlb.model import Port
from meshlb.records import Ended

LONG = 30.0  # seconds: that something does not wait for ever
ENDED = Ended(1_700_000_000.5, "198.51.100.7:51234", Port(80, 8000), "web", None, 7, 12, 1, 2, 3, 1, "done")
LOG = logging.getLogger("meshlb.test")


class Reader:
    """Reads what is written when it is told to; until then whoever writes waits."""

    def __init__(self) -> None:
        self.told = b""
        self.reads, self.waits = threading.Event(), threading.Event()

    def write(self, data: bytes) -> None:
        self.waits.set()
        self.reads.wait(LONG)
        self.told += data

    def lines(self) -> list[str]:
        return self.told.decode().splitlines()


@contextmanager
def logging_to(write: Callable[[bytes], object]) -> Iterator[logging.Handler]:
    handler = logs.setup("text", "info", write)
    try:
        yield handler
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def in_time(what: Callable[[], object]) -> bool:
    """Whether it ends."""
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    thread.join(LONG)
    return not thread.is_alive()


def test_a_log_that_nobody_reads_holds_up_nobody() -> None:
    reading, writing = os.pipe()

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(writing, data) :]

    try:
        with logging_to(write):
            burst = threading.Thread(target=access_log.write, args=([ENDED] * 5_000, 0, {}), daemon=True)
            burst.start()
            burst.join(LONG)
            assert in_time(lambda: LOG.info("the event loop has something to say"))
    finally:
        os.close(reading)
        os.close(writing)


def test_what_is_lost_is_counted_and_told_once_lines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PLACES", 10)
    monkeypatch.setattr(lines, "BULK_PLACES", 8)
    monkeypatch.setattr(lines, "PATIENCE", 0.05)
    reader = Reader()
    with logging_to(reader.write):
        LOG.info("first")
        assert reader.waits.wait(LONG)
        assert access_log.write([ENDED] * 20, 0, {}) == 12
        for number in range(5):
            LOG.info("single %d", number)
        reader.reads.set()
        eventually(lambda: len(reader.lines()) == 12, timeout=LONG, what="the lines")
    found = [line.split()[-1] for line in reader.lines()]
    assert "lost=15" in found
    assert [one for one in found if one.isdigit()] == ["0", "1"]
    assert len([line for line in reader.lines() if " connection " in line]) == 8


def test_who_reads_slowly_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BULK_PLACES", 8)
    monkeypatch.setattr(lines, "BATCH", 4)
    told: list[bytes] = []
    pause = threading.Event()

    def write(data: bytes) -> None:
        pause.wait(0.02)
        told.append(data)

    slow = Lines(write, str)
    assert all(slow.put(f"{number}", bulk=True) for number in range(60))
    slow.flush(LONG)
    assert b"".join(told).decode().split() == [str(number) for number in range(60)]
    slow.close()


PROCESS = """
import logging, sys
from meshlb import logs
handler = logs.setup("text", "info")
for number in range(3000):
    logging.getLogger("meshlb.test").info("line %d of a process that ends" + 100 * "!", number)
sys.exit(3)
"""


def started() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROCESS], stderr=subprocess.PIPE, text=True)


def test_a_write_that_fails_ends_nothing_and_is_counted() -> None:
    told, room = [b""], [5]

    def write(data: bytes) -> None:
        told[0] += data[: room[0]]
        if len(data) > room[0]:
            raise MemoryError

    out = Lines(write, lambda lost: f"{lost} lost")
    out.put("more than there is room for")
    out.flush()
    room[0] = 100
    out.put("next")
    out.flush()
    # What was torn has its line's end, so that nothing sticks to it.
    assert told[0].decode().splitlines() == ["more ", "1 lo", "next", "1 lost"]


def test_an_end_waits_for_who_reads_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BATCH", 1)
    told: list[bytes] = []

    def write(data: bytes) -> None:
        time.sleep(0.02)
        told.append(data)

    out = Lines(write, str)
    for number in range(100):  # two seconds
        out.put(str(number))
    out.flush(LONG)
    assert len(told) == 100


def test_records_are_handled_without_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 takes the handler's own in `Handler.handle`."""

    def handle(self: logging.Handler, record: logging.LogRecord) -> bool:
        with self.lock:  # type: ignore[union-attr]
            return True

    monkeypatch.setattr(logging.Handler, "handle", handle)
    reader = Reader()
    reader.reads.set()
    handler = logs.LineHandler(reader.write)
    assert handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "said", None, None))
    handler.flush()
    assert reader.lines() == ["said"]
    handler.close()


def test_a_process_that_ends_has_written_all_of_its_lines() -> None:
    with started() as process:
        _, told = process.communicate(timeout=LONG)
    assert process.returncode == 3
    passed = 1000  # of one log call with other arguments
    assert [line.split()[3] for line in told.splitlines()] == [str(number) for number in range(passed)]


def test_a_process_ends_though_nobody_reads() -> None:
    with started() as process:
        assert process.wait(LONG) == 3
