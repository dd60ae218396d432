"""CPU time: of processes, and of the whole machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Used:
    """Seconds of CPU within a block."""

    own: float = 0.0
    machine: float = 0.0
    idle: Mapping[int, float] = field(default_factory=dict)  # each CPU's, of the time


@contextlib.contextmanager
def used(pids: Iterable[int]) -> Iterator[Used]:
    """What the processes and the machine use until the block ends."""
    watched, found, begun = list(pids), Used(), time.monotonic()
    own, busy, idle = sum(map(_of_process, watched)), *_of_cpus()
    yield found
    found.own = sum(map(_of_process, watched)) - own
    busy_now, idle_now = _of_cpus()
    found.machine = sum(busy_now.values()) - sum(busy.values())
    elapsed = max(time.monotonic() - begun, 1e-9)
    found.idle = {cpu: min(1.0, (idle_now[cpu] - idle[cpu]) / elapsed) for cpu in idle_now}


def _of_process(pid: int) -> float:
    """All threads' time on a CPU: the kernel counts it in nanoseconds there, in ticks elsewhere."""
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _of_cpus() -> tuple[dict[int, float], dict[int, float]]:
    """Seconds that each CPU has worked, interrupts included, and that it has idled or waited for disks."""
    busy, idle = {}, {}
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu") and line[3].isdigit():
            name, *fields = line.split()[:9]
            user, nice, system, idling, waiting, irq, softirq, _steal = (
                int(value) / os.sysconf("SC_CLK_TCK") for value in fields
            )
            cpu = int(name.removeprefix("cpu"))
            busy[cpu], idle[cpu] = user + nice + system + irq + softirq, idling + waiting
    return busy, idle
