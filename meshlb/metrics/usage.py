"""What this process uses of its machine, by the names that every exporter has for it."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SELF = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Usage:
    """Figures of this process; 0 where /proc does not tell."""

    cpu: float = 0.0  # seconds, of all threads
    memory: int = 0  # bytes that are resident
    descriptors: int = 0  # open
    most_descriptors: int = 0
    threads: int = 0
    started: float = 0.0  # seconds since 1970


def usage() -> Usage:
    """The figures now."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Usage(
        round(spent.ru_utime + spent.ru_stime, 6),
        int(_told(_memory)),
        int(_told(_descriptors)),
        max(most, 0),
        int(_told(_threads)),
        _told(_started),
    )


def _told(figure: Callable[[], float]) -> float:
    """A metric that cannot be read must not hide the others: descriptors may be out."""
    try:
        return figure()
    except OSError:
        return 0


def _memory() -> int:
    return int((_SELF / "statm").read_text().split()[1]) * resource.getpagesize()


def _threads() -> int:
    return len(os.listdir(_SELF / "task"))  # noqa: PTH208  # names alone


def _descriptors() -> int:
    """Linux 6.2 and later tell the number as a size; before, a busy agent has a long list to be read."""
    return (_SELF / "fd").stat().st_size or len(os.listdir(_SELF / "fd"))  # noqa: PTH208


@cache
def _started() -> float:
    """Read once: every look would come to another fraction of a second."""
    words = (_SELF / "stat").read_text().rpartition(")")[2].split()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(words[19]) / os.sysconf("SC_CLK_TCK")
    return round(time.time() - age, 2)
