"""What a peer is started for alone: growth, memory, reloads, chains, exact counts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.cpu import used
from benchmarks.endpoints import CLOSED, KEPT
from benchmarks.figures import slope
from benchmarks.proxies import Peer, Route, nginx_options, render
from benchmarks.results import CPU, IDLE, RESIDENT
from benchmarks.stage import Stage
from benchmarks.tools import counted_calls, dumped, memory_of_kernel, parse_packets, start_endpoint

Scaling = Callable[[Stage, Peer], None]
PORT = 21000
BACKENDS, PORTS, CONNECTIONS = (1, 1000), (1, 500), (0, 9000)
HELD, CHAIN = 2000, 5
SCRIPT = 400  # connections of the exact counts


def backends(stage: Stage, peer: Peer) -> None:
    """The cost of a short connection with 1 and with 1,000 backends."""
    for count in BACKENDS if peer.many else ():
        route = Route(PORT, [f"{stage.hosts.backend(number)}:{CLOSED}" for number in range(count)])
        with stage.peer(peer, [route], f"{peer.name}-b{count}") as running:
            _short(stage, peer, running.pids(), f"{count} backends")


def ports(stage: Stage, peer: Peer) -> None:
    """The cost of a short connection with 1 and with 500 ports served."""
    for count in PORTS if peer.many else ():
        routes = [_route(stage, PORT + number, CLOSED) for number in range(count)]
        with stage.peer(peer, routes, f"{peer.name}-p{count}") as running:
            _short(stage, peer, running.pids(), f"{count} ports")


def connections(stage: Stage, peer: Peer) -> None:
    """The cost of a short connection beside idle ones."""
    for count in CONNECTIONS if peer.many else ():
        routes = [_route(stage, PORT, CLOSED), _route(stage, PORT + 1, KEPT)]
        held = _held(stage, stage.hosts.front, PORT + 1, count)
        with stage.peer(peer, routes, f"{peer.name}-c{count}") as running, held:
            _short(stage, peer, running.pids(), f"{count} idle connections")


def memory(stage: Stage, peer: Peer) -> None:
    """What an idle connection takes in the proxy, and in the kernel less what it takes without a proxy."""
    direct = _kernel_for_idle(stage, stage.hosts.direct, KEPT)
    with stage.peer(peer, [_route(stage, PORT, KEPT)], f"{peer.name}-m") as running:
        _hold_once(stage, stage.hosts.front)
        before = _resident(running.pids())
        stage.record("memory", RESIDENT, "MiB", peer.name, before / 2**20)
        kernel = _kernel_for_idle(stage, stage.hosts.front, PORT, lambda: _resident(running.pids()) - before)
        stage.record("memory", IDLE, "bytes", peer.name, kernel[1] / HELD)
        stage.record(
            "memory", "kernel, for each idle connection", "bytes", peer.name, (kernel[0] - direct[0]) / HELD
        )


def reload(stage: Stage, peer: Peer) -> None:
    """From a changed file and its signal to the first answer on a new port, beside 500 of 50 backends."""
    if not peer.reload:
        return
    many = [f"{stage.hosts.backend(number)}:{KEPT}" for number in range(50)]
    routes = [Route(PORT + number, many) for number in range(500)]
    with stage.peer(peer, routes, f"{peer.name}-r") as running:
        running.setting.routes = [*routes, Route(PORT + 500, many)]
        if running.config is not None:
            more = nginx_options(running.setting) if peer.name == "nginx" else {}
            render(running.config.name, running.setting, **more)
        begun = time.monotonic()
        os.kill(running.processes[0].pid, peer.reload)
        found = stage.ask(
            "first",
            stage.hosts.front,
            PORT + 500,
            seconds=begun,
        )
        stage.record("reload", "file to first answer, 500 ports", "ms", peer.name, found["seconds"] * 1e3)


def chain(stage: Stage, peer: Peer) -> None:
    """One to five proxies in a row within one process: the slope is one proxy's cost, without the ends'."""
    if not peer.many:
        return
    points = []
    for length in range(1, CHAIN + 1):
        routes = [Route(PORT + at, [f"127.0.0.1:{PORT + at + 1}"]) for at in range(length - 1)]
        routes.append(_route(stage, PORT + length - 1, CLOSED))
        with stage.peer(peer, routes, f"{peer.name}-l{length}") as running, used(running.pids()) as cpu:
            done = _churn(stage, PORT)["done"]
        points.append((length, cpu.machine * 1e6 / max(1, done)))
    stage.record("chain", "CPU of the machine for one proxy more", "µs", peer.name, slope(points))


def exact(stage: Stage, peer: Peer) -> None:
    """Packets, system calls and instructions of a fixed number of short connections, one after the other."""
    if not peer.many:
        return
    with stage.peer(peer, [_route(stage, PORT, CLOSED)], f"{peer.name}-s") as running:
        _churn(stage, PORT, SCRIPT, 1)
        before = _packets(stage)
        _churn(stage, PORT, SCRIPT, 1)
        packets = _packets(stage) - before
        with counted_calls(running.pids(), stage.directory / "strace") as calls:
            _churn(stage, PORT, SCRIPT, 1)
    stage.record("exact", "packets at the proxy for a connection", "packets", peer.name, packets / SCRIPT)
    stage.record("exact", "system calls for a connection", "calls", peer.name, calls["total"] / SCRIPT)
    directory = stage.directory / f"{peer.name}-i"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={directory}/callgrind.%p"]
    with stage.peer(peer, [_route(stage, PORT, CLOSED)], f"{peer.name}-i", valgrind) as running:
        _churn(stage, PORT, SCRIPT, 1)
        _settle(running.pids())
        dumped(running.pids(), directory)
        few, many = (_instructions(stage, running.pids(), directory, count) for count in (SCRIPT, 3 * SCRIPT))
    each = (many - few) / (2 * SCRIPT)  # what the process does beside is in both
    stage.record("exact", "instructions for a connection", "instructions", peer.name, each)


def _packets(stage: Stage) -> int:
    return parse_packets(stage.hosts.proxy.run(["cat", "/proc/net/dev"]))


def _settle(pids: list[int]) -> None:
    """Until they do next to nothing: an agent loads things after its ports are open."""
    end = time.monotonic() + 60
    busy = 1.0
    while busy > 0.02 and time.monotonic() < end:
        with used(pids) as cpu:
            time.sleep(1)
        busy = cpu.own


def _instructions(stage: Stage, pids: list[int], directory: Path, count: int) -> int:
    _churn(stage, PORT, count, 1)
    return dumped(pids, directory)


def _route(stage: Stage, port: int, server: int) -> Route:
    return Route(port, [f"{stage.hosts.backend()}:{server}"])


def _churn(stage: Stage, port: int, total: int = 0, at_once: int = 64) -> dict[str, int]:
    return stage.ask(
        "churn",
        stage.hosts.front,
        port,
        connections=at_once,
        seconds=60 if total else stage.seconds,
        total=total,
    )


def _short(stage: Stage, peer: Peer, pids: list[int], what: str) -> None:
    _churn(stage, PORT, 2000)
    with used(pids) as cpu:
        done = _churn(stage, PORT)["done"]
    if done:
        stage.record("growth", f"{CPU}, {what}", "µs", peer.name, cpu.own * 1e6 / done)


@contextlib.contextmanager
def _held(stage: Stage, host: str, port: int, count: int) -> Iterator[None]:
    """So many idle connections. The block begins when they are there."""
    if not count:
        yield
        return
    process = start_endpoint(
        stage.hosts.client, stage.end_cpus, "hold", host=host, port=port, connections=count
    )
    try:
        if not process.stdout or json.loads(process.stdout.readline() or b"{}").get("held") != count:
            raise RuntimeError(f"{count} connections could not be held")
        yield
    finally:
        process.communicate(timeout=60)


def _hold_once(stage: Stage, host: str) -> None:
    """What the first connections allocate for good is nobody's in particular."""
    with _held(stage, host, PORT, 100):
        pass


def _kernel_for_idle(
    stage: Stage, host: str, port: int, also: Callable[[], float] = lambda: 0.0
) -> tuple[float, float]:
    """Bytes of kernel memory for HELD connections, and what `also` says while they are there."""
    before = memory_of_kernel(Path("/proc/meminfo").read_text())
    with _held(stage, host, port, HELD):
        return memory_of_kernel(Path("/proc/meminfo").read_text()) - before, also()


def _resident(pids: list[int]) -> int:
    """Private memory of processes: what they share with others is not theirs alone."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))
    return total * 1024


SCALINGS: dict[str, Scaling] = {
    "backends": backends,
    "ports": ports,
    "connections": connections,
    "memory": memory,
    "reload": reload,
    "chain": chain,
    "exact": exact,
}
