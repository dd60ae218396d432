"""A lab's node whose process 1 is a real systemd: namespaces within the node's, a root that keeps nothing."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from waiting import eventually

from meshlb.lab import Node

BOOT = Path(__file__).with_suffix(".sh")
SOON = 60.0  # seconds
_UNSHARE = ("unshare", "--mount", "--pid", "--cgroup", "--fork", "--kill-child", "--propagation", "slave")
_COUNT = itertools.count(1)


def why_not() -> str:
    """Why none can be booted here; empty when one can."""
    found = Path("/lib/systemd/systemd")
    return "" if found.exists() else "systemd is not installed: apt-get install systemd"


class Machine:
    """Runs as long as the context lasts. `opt` is what is to be /opt/meshlb there."""

    def __init__(self, node: Node, opt: Path, scratch: Path) -> None:
        self.node, self._opt, self._scratch = node, opt, scratch
        self._group = _unified() / f"meshlb-systemd-{os.getpid()}-{next(_COUNT)}"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._group.mkdir()
        # Its own part of the control groups becomes the root of what it sees.
        enter = f'echo $$ >"{self._group}/cgroup.procs"; exec "$@"'
        boot = ["sh", str(BOOT), str(self._scratch), str(self._opt)]
        with (self._scratch.parent / "boot.log").open("w") as log:
            self._process = self.node.popen(
                ["sh", "-c", enter, "sh", *_UNSHARE, *boot],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(self._is_up, timeout=SOON, what="systemd to come up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()
        eventually(self._is_gone, timeout=SOON, what="its control groups to go")

    def run(self, *command: str, check: bool = True, seconds: float = 120) -> str:
        """What a command there prints, in all of its namespaces."""
        words = ["nsenter", "-t", str(self._init()), "-m", "-u", "-i", "-n", "-p", "-C", "--", *command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0 or not check, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def write(self, path: str, text: str) -> None:
        """A file there."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")"; printf %s "$2" >"$1"', "sh", path, text)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def _init(self) -> int:
        assert self._process
        pid = self._process.pid
        assert self._process.poll() is None, (self._scratch.parent / "boot.log").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _is_up(self) -> bool:
        init = self._init()
        if not init or Path(f"/proc/{init}/comm").read_text() != "systemd\n":
            return False
        return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def _is_gone(self) -> bool:
        for folder, _, _ in os.walk(self._group, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                return False
        return True


def _unified() -> Path:
    """Where control groups of version 2 are mounted."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return next(Path(fields[1]) for fields in mounts if fields[2] == "cgroup2")
