"""Programs of others that measure: how they are run, and what their answers mean."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.hosts import Host

_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def parse_wrk(text: str) -> tuple[float, float]:
    """Requests, and socket errors, of a run of wrk."""
    total = re.search(r"^\s*(\d+) requests in", text, re.MULTILINE)
    if not total:
        raise ValueError(f"wrk did not say what it has done: {text[-300:]}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return float(total[1]), float(sum(map(int, errors.groups()))) if errors else 0.0


def wrk(host: Host, cpus: str, address: str, connections: int, seconds: int) -> tuple[float, float]:
    """Requests without a pause over lasting connections: requests done, errors."""
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", f"http://{address}/"]
    return parse_wrk(host.run(command, cpus))


def parse_iperf(text: str) -> float:
    """Bytes that arrived, by iperf3's JSON."""
    end = json.loads(text)["end"]
    return float(end["sum_received"]["bytes"])


def endpoint(host: Host, cpus: str, role: str, /, **options: object) -> dict[str, Any]:
    """What one of `endpoints` has to say."""
    command = [sys.executable, "-m", "benchmarks.endpoints", role, json.dumps(options)]
    found: dict[str, Any] = json.loads(host.run(command, cpus))
    return found


def start_endpoint(host: Host, cpus: str, role: str, /, **options: object) -> subprocess.Popen[bytes]:
    """One of `endpoints` that stays; its output is read by the caller."""
    command = [sys.executable, "-m", "benchmarks.endpoints", role, json.dumps(options)]
    return subprocess.Popen(
        host.command(command, cpus),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )


def parse_packets(text: str) -> int:
    """All packets that a host has sent and received, of /proc/net/dev; those on its loopback count twice."""
    lines = [line.partition(":")[2].split() for line in text.splitlines() if ":" in line]
    return sum(int(fields[1]) + int(fields[9]) for fields in lines)


def parse_strace(text: str) -> int:
    """All calls of `strace -c`."""
    total = re.search(r"^\s*100\.00\s+\S+\s+(?:\S+\s+)?(\d+)(?:\s+\d+)?\s+total", text, re.MULTILINE)
    return int(total[1]) if total else 0


@contextmanager
def counted_calls(pids: list[int], into: Path) -> Iterator[dict[str, int]]:
    """The system calls of processes; `total` is there once the block has ended."""
    found: dict[str, int] = {}
    attach = [word for pid in pids for word in ("-p", str(pid))]
    strace = subprocess.Popen(
        ["strace", "-f", "-c", "-o", str(into), *attach], stderr=subprocess.PIPE, text=True
    )
    assert strace.stderr
    for _ in pids:
        if "attached" not in strace.stderr.readline():
            raise RuntimeError("strace cannot attach to the proxy")
    try:
        yield found
    finally:
        strace.send_signal(signal.SIGINT)
        strace.communicate(timeout=60)
    found["total"] = parse_strace(into.read_text())


def parse_callgrind(text: str) -> int:
    """The instructions of a dump."""
    return max(map(int, re.findall(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)), default=0)


def dumped(pids: list[int], directory: Path) -> int:
    """The instructions of processes under callgrind since the last call of this."""
    before = set(directory.glob("callgrind.*"))
    for pid in pids:
        subprocess.run(
            ["callgrind_control", "--dump", str(pid)], capture_output=True, check=True, timeout=120
        )
    return sum(
        parse_callgrind(path.read_text(errors="replace"))
        for path in set(directory.glob("callgrind.*")) - before
    )


def memory_of_kernel(text: str) -> int:
    """Bytes that the kernel holds for itself, by /proc/meminfo."""
    fields: Mapping[str, str] = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return sum(int(fields.get(name, 0)) for name in ("Slab", "KernelStack", "PageTables")) * 1024
