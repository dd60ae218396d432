"""Whether this machine can give honest figures now."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

ROOM = 200 << 20  # bytes on the disk; a full SD card fails in the middle
HOT = 75_000  # millidegrees at which a Pi is about to slow down
LOOK = 2.0  # seconds for which the machine is watched
BUSY = 0.25  # share of all cores above which figures are not worth having


def why_not(output: Path) -> str:
    """One sentence; empty when nothing is against it."""
    return _no_root() or _no_room(output) or _hot() or _throttled() or _busy()


def _no_root() -> str:
    return "" if os.geteuid() == 0 else "needs root for network namespaces: sudo scripts/bench"


def _no_room(output: Path) -> str:
    place = next(parent for parent in output.resolve().parents if parent.exists())
    free = shutil.disk_usage(place).free
    return f"only {free >> 20} MiB are left in {place}" if free < ROOM else ""


def _hot() -> str:
    zones = Path("/sys/class/thermal").glob("thermal_zone*/temp")
    hottest = max(map(_number, zones), default=0)
    return (
        f"the processor has {hottest / 1000:.0f} °C and will slow down: let it cool" if hottest > HOT else ""
    )


def _throttled() -> str:
    """The firmware of a Raspberry Pi tells what it has slowed down since its start."""
    flags = _number(Path("/sys/devices/platform/soc/soc:firmware/get_throttled"), 16)
    return "the board is throttled: power supply too weak, or too hot" if flags & 0xF else ""


def _busy() -> str:
    """Looked at for a moment instead of read from the load average, which still holds what was just built."""
    before = _ticks()
    time.sleep(LOOK)
    all_ticks, idle_ticks = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
    load = 1 - idle_ticks / max(1, all_ticks)
    return f"the machine is busy ({load:.0%} of its cores)" if load > BUSY else ""


def _ticks() -> tuple[int, int]:
    """All and idle clock ticks of all cores since the start, from /proc/stat (man 5 proc)."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def _number(path: Path, base: int = 10) -> int:
    try:
        return int(path.read_text(), base)
    except (OSError, ValueError):
        return 0
