"""A share of a core, by a cgroup of either version, so that proxies are the bottleneck and not the ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SHARE = 0.4  # with a whole core the fastest proxies pass on more than the ends can give
PERIOD = 10_000  # microseconds in which the share counts; the usual 100 ms would all be latency
_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Share:
    """A group of processes that have a share of one core together."""

    group: Path

    def take(self, pids: Iterable[int]) -> None:
        """These processes are of it from now on, with all their threads."""
        for pid in pids:
            (self.group / "cgroup.procs").write_text(str(pid))


def why_not() -> str:
    """One sentence where this machine gives no shares, as a container may not; empty where it does."""
    try:
        with share():
            return ""
    except (OSError, RuntimeError) as error:
        return f"processor time cannot be limited: {error}"


@contextlib.contextmanager
def share() -> Iterator[Share]:
    """The group, while the block runs; its processes end before. RuntimeError where there can be none."""
    parent = _parent()
    if parent is None:
        raise RuntimeError("no cgroup controller for it")
    group = parent / f"meshlb-bench-{os.getpid()}"
    group.mkdir()
    try:
        _limit(group)
        yield Share(group)
    finally:
        group.rmdir()


def _parent() -> Path | None:
    """Where groups with processor time can be made: version 2, or the controller of version 1."""
    if "cpu" in _text(_ROOT / "cgroup.controllers").split():
        return _ROOT
    return _ROOT / "cpu" if (_ROOT / "cpu" / "cgroup.procs").exists() else None


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def _limit(group: Path) -> None:
    quota = str(round(SHARE * PERIOD))
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(quota)
    else:
        (group.parent / "cgroup.subtree_control").write_text("+cpu")
        (group / "cpu.max").write_text(f"{quota} {PERIOD}")
