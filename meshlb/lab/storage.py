"""Which storage driver the lab's engines use."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path


def driver(home: Path) -> str:
    """overlay2 where the file system below can carry it, else vfs, which can be anywhere but copies all."""
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        for part in ("lower", "upper", "work", "merged"):
            (Path(scratch) / part).mkdir()
        options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, f"{scratch}/merged"]
        done = subprocess.run(["unshare", "--mount", *mount], capture_output=True, check=False)
    return "overlay2" if done.returncode == 0 else "vfs"
