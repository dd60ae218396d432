"""CPU time: of processes, and of the whole machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Used:
    """Seconds of CPU within a block."""

    own: float = 0.0
    machine: float = 0.0


@contextlib.contextmanager
def used(pids: Iterable[int]) -> Iterator[Used]:
    """What the processes and the machine use until the block ends."""
    watched, found = list(pids), Used()
    own, machine = sum(map(_of_process, watched)), _of_machine()
    yield found
    found.own = sum(map(_of_process, watched)) - own
    found.machine = _of_machine() - machine


def _of_process(pid: int) -> float:
    """All threads' time on a CPU: the kernel counts it in nanoseconds there, in ticks elsewhere."""
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _of_machine() -> float:
    """Everything but idling and waiting for disks, interrupts included."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = fields
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
