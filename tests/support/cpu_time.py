"""CPU time: of single calls, and of processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def cpu_of(call: Callable[[], object]) -> float:
    """Seconds of this thread's, the best of five."""

    def once() -> float:
        begun = time.thread_time()
        call()
        return time.thread_time() - begun

    return min(once() for _ in range(5))


def used_by(pid: int) -> float:
    """Seconds of a core that a process has used since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
