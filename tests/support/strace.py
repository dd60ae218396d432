"""The system calls of a process, as strace tells them."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CALL = re.compile(r"(\d+) +(<\.\.\. )?(\w+)(?:\(| resumed>)(?:.*= (-?\d+))?")


@dataclass(frozen=True)
class Call:
    """One that has begun, or returned, or both on one line."""

    thread: int
    name: str
    begins: bool
    result: int | None  # None as long as it has not returned


@contextlib.contextmanager
def traced(pid: int, into: Path, *options: str) -> Iterator[list[Call]]:
    """The system calls of all of a process's threads, in order; complete when the block has ended."""
    calls: list[Call] = []
    command = ["strace", "-f", f"--attach={pid}", "--output", str(into), *options]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert strace.stderr
    assert "attached" in strace.stderr.readline()
    try:
        yield calls
    finally:
        strace.send_signal(signal.SIGINT)
        strace.communicate(timeout=30)
    calls += map(_call, filter(_CALL.match, into.read_text().splitlines()))


def _call(line: str) -> Call:
    match = _CALL.match(line)
    assert match
    thread, resumed, name, result = match.groups()
    return Call(int(thread), name, not resumed, None if result is None else int(result))
