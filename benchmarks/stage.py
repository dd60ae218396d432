"""A stage: hosts, the server, and every peer serving at once, each at ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.endpoints import CLOSED, DATAGRAMS, KEPT, LARGE
from benchmarks.hosts import TOPOLOGIES, Host, Hosts
from benchmarks.proxies import PEERS_BY_NAME, Peer, Route, Running, Setting
from benchmarks.results import DIRECT, Key, Results
from benchmarks.share import Share, share
from benchmarks.tools import endpoint

BULK = (5201, 5202)  # iperf3's servers: one of them serves at most 128 streams
_TCP = (KEPT, CLOSED, LARGE, *BULK)


@dataclass(frozen=True)
class Target:
    """A peer as the client sees it, or the server itself."""

    name: str
    host: str
    base: int  # of its ports: where the server's 8001 is, say
    running: Running | None = None

    def port(self, port: int) -> int:
        """Where it serves one of the server's ports."""
        return port if self.running is None else self.base + (*_TCP, DATAGRAMS).index(port)

    def pids(self) -> list[int]:
        """The proxy's processes; none of the server and the kernel."""
        return self.running.pids() if self.running else []


@dataclass
class Stage:
    """Where peers are measured."""

    name: str
    hosts: Hosts
    directory: Path
    proxy_cpus: str
    end_cpus: str
    results: Results
    seconds: float
    share: Share | None = None

    def record(self, axis: str, measure: str, unit: str, target: str, value: float) -> None:
        """One sample."""
        self.results.add(Key(axis, self.name, measure, unit), target, value)

    def ask(self, role: str, host: str, port: int, **options: float) -> dict[str, Any]:
        """What one of the `endpoints` has to say, played by the client towards an address."""
        return endpoint(self.hosts.client, self.end_cpus, role, host=host, port=port, **options)

    @contextlib.contextmanager
    def peer(
        self, peer: Peer, routes: Sequence[Route], name: str, prefix: Sequence[str] = ()
    ) -> Iterator[Running]:
        """A peer for these routes, alone or beside others."""
        setting = Setting(self.hosts.proxy, routes, self.directory / name, self.proxy_cpus, prefix)
        with peer.serving(setting) as running:
            if self.share is not None:
                self.share.take(running.pids())
            yield running

    @contextlib.contextmanager
    def targets(self, names: Sequence[str]) -> Iterator[list[Target]]:
        """Direct, and the named peers, all at once: those that are not measured sleep."""
        found = [Target(DIRECT, self.hosts.direct, 0)]
        with contextlib.ExitStack() as stack:
            for number, name in enumerate(names):
                base = 20000 + 10 * number
                running = stack.enter_context(self.peer(PEERS_BY_NAME[name], self._routes(name, base), name))
                found.append(Target(name, self.hosts.front, base, running))
            yield found

    def _routes(self, name: str, base: int) -> list[Route]:
        address = self.hosts.backend()
        routes = [Route(base + at, [f"{address}:{port}"]) for at, port in enumerate(_TCP)]
        if PEERS_BY_NAME[name].datagrams:
            routes.append(Route(base + len(_TCP), [f"{address}:{DATAGRAMS}"], "udp"))
        return routes


@contextlib.contextmanager
def stage(topology: str, cores: str, results: Results, seconds: float) -> Iterator[Stage]:
    """What proxies have of the processor is "one" core, a "share" of it, or "all", as everything has.

    With one or a share everything else is on the other cores.
    """
    cpus = sorted(os.sched_getaffinity(0))
    pinned = cores != "all" and len(cpus) > 1
    proxy, ends = (str(cpus[0]), ",".join(map(str, cpus[1:]))) if pinned else ("", "")
    with contextlib.ExitStack() as stack:
        part = stack.enter_context(share()) if cores == "share" else None
        hosts = stack.enter_context(TOPOLOGIES[topology]())
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="meshlb-bench-"))
        stack.enter_context(_server(hosts, ends))
        yield Stage(f"{topology}-{cores}", hosts, Path(directory), proxy, ends, results, seconds, part)


@contextlib.contextmanager
def _server(hosts: Hosts, cpus: str) -> Iterator[None]:
    host, python = hosts.server, [sys.executable, "-m", "benchmarks.endpoints"]
    echoes = [[*python, "echo", json.dumps({"host": at})] for at in (hosts.direct, hosts.backend())]
    commands = [[*python, "serve"], *echoes, *(["iperf3", "-s", "-p", str(port)] for port in BULK)]
    processes = [host.start(command, cpus) for command in commands]
    try:
        _await(host, processes)
        yield
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await(host: Host, processes: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + 30
    wanted = {*(("tcp", port) for port in _TCP), ("udp", DATAGRAMS)}
    while wanted - host.ports():
        if time.monotonic() > end or any(process.poll() is not None for process in processes):
            raise RuntimeError("the benchmarks' own server does not start")
        time.sleep(0.05)
