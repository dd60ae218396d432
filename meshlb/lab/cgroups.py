"""The lab's control groups: where its containers are counted, and how the empty groups are removed."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

ROOT = "meshlb-lab"
BUSY_SECONDS = 5.0


def hierarchies() -> list[Path]:
    """Where control groups are mounted: several of version 1, or one of version 2."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return [Path(fields[1]) for fields in mounts if fields[2] in ("cgroup", "cgroup2")]


def parent(lab: str, node: str) -> str:
    """The value of dockerd's --cgroup-parent: each node has its own, as each machine has."""
    return f"/{ROOT}/{lab}/{node}"


def remove(lab: str) -> list[Path]:
    """Remove the lab's groups from every hierarchy. Returns those that would not go."""
    left = [group for hierarchy in hierarchies() for group in _remove_tree(hierarchy / ROOT / lab)]
    for hierarchy in hierarchies():
        with suppress(OSError):  # other labs are still in there, or it never was
            (hierarchy / ROOT).rmdir()
    return left


def _remove_tree(top: Path) -> list[Path]:
    # The kernel empties a group some time after its last process has been reaped.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        left = [Path(path) for path, _, _ in os.walk(top, topdown=False) if not _removed(Path(path))]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
