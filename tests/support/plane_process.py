"""A plane in a process of its own, so that its memory and its descriptors are its alone.

Serves one port with one backend on loopback and prints its number; answers every line of its input with the
bytes of memory that are its own and the number of open connections.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from mesh import Mesh, backend


def raise_limit() -> None:
    """As the agent does when it starts."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def own_memory() -> int:
    """Bytes that no other process shares."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


def main() -> None:
    raise_limit()
    mesh = Mesh()
    mesh.serve(backend(int(sys.argv[1])))
    print(mesh.port.published, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"memory": own_memory(), "open": mesh.counters().open}), flush=True)
    mesh.plane.stop()


class PlaneProcess:
    """The same, from outside."""

    def __init__(self, backend_port: int) -> None:
        command = [sys.executable, __file__, str(backend_port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def look(self) -> Any:
        """Its memory and its open connections."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def close(self) -> None:
        """Ends it; it has to end well."""
        self._process.communicate()
        assert self._process.returncode == 0


if __name__ == "__main__":
    main()
