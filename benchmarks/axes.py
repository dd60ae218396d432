"""What is measured of every target in turn, round after round, on one stage."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.cpu import Used, used
from benchmarks.endpoints import CLOSED, DATAGRAMS, KEPT, LARGE, LARGE_BODY
from benchmarks.figures import median, percentile
from benchmarks.results import CPU, DIRECT, ENDS_LEFT, PROXYS_LEFT
from benchmarks.stage import BULK, Stage, Target
from benchmarks.tools import parse_iperf, wrk

Axis = Callable[[Stage, Target], None]
SHORT_AT_ONCE, KEPT_AT_ONCE, LARGE_AT_ONCE, PACED_AT_ONCE = 64, 32, 32, 64
STREAMS_AT_MOST = 128  # of one iperf3
SOCKETS, WINDOW = 8, 32  # of datagrams under way


def short(stage: Stage, target: Target) -> None:
    """Short connections: connect, ask, answer, end."""
    with used(target.pids()) as cpu:
        found = stage.ask(
            "churn",
            target.host,
            target.port(CLOSED),
            connections=SHORT_AT_ONCE,
            seconds=stage.seconds,
        )
    _record_cpu(stage, target, "short", cpu, found["done"])
    stage.record("short", "rate", "connections/s", target.name, found["done"] / found["seconds"])
    stage.record("short", "p99", "ms", target.name, percentile(found["cells"], 0.99) * 1e3)
    stage.record("short", "failed", "connections", target.name, sum(found["failed"].values()))


def keep(stage: Stage, target: Target) -> None:
    """Requests over lasting connections, as many as go."""
    _requests(stage, target, "keep", KEPT, KEPT_AT_ONCE)


def large(stage: Stage, target: Target) -> None:
    """Answers of 64 KiB over lasting connections."""
    rate = _requests(stage, target, "large", LARGE, LARGE_AT_ONCE)
    stage.record("large", "throughput", "Gbit/s", target.name, rate * LARGE_BODY * 8 / 1e9)


def _requests(stage: Stage, target: Target, axis: str, port: int, connections: int) -> float:
    seconds = max(1, round(stage.seconds))
    with used(target.pids()) as cpu:
        address = f"{target.host}:{target.port(port)}"
        done, errors = wrk(stage.hosts.client, stage.end_cpus, address, connections, seconds)
    _record_cpu(stage, target, axis, cpu, done)
    stage.record(axis, "rate", "requests/s", target.name, done / seconds)
    stage.record(axis, "failed", "requests", target.name, errors)
    return done / seconds


def latency(stage: Stage, target: Target) -> None:
    """Answer times at 50 % and 80 % of the best peer's rate, of requests that begin by the clock."""
    rates = stage.results.find("keep", stage.name, "rate")
    best = max(
        (median(values) for name, values in rates.items() if name not in (DIRECT, "kernel-dnat")), default=0
    )
    for percent in (50, 80) if best else ():
        found = stage.ask(
            "paced",
            target.host,
            target.port(KEPT),
            connections=PACED_AT_ONCE,
            rate=best * percent / 100,
            seconds=stage.seconds,
        )
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
            value = percentile(found["cells"], share) * 1e3
            stage.record(f"latency at {percent} %", name, "ms", target.name, value)
        stage.record(
            f"latency at {percent} %", "failed", "requests", target.name, sum(found["failed"].values())
        )


def bulk(stage: Stage, target: Target) -> None:
    """Streams from the client to the server, as fast as they go."""
    for streams in (1, 16, 256):
        parts = [min(STREAMS_AT_MOST, streams)] * -(-streams // STREAMS_AT_MOST)
        with used(target.pids()) as cpu, ThreadPoolExecutor() as pool:
            sent = sum(pool.map(lambda part: _stream(stage, target, *part), zip(BULK, parts, strict=False)))
        axis = f"bulk, {streams} stream{'s' * (streams > 1)}"
        _record_cpu(stage, target, axis, cpu, sent / 2**20)
        stage.record(axis, "throughput", "Gbit/s", target.name, sent * 8 / 1e9 / stage.seconds)


def _stream(stage: Stage, target: Target, port: int, streams: int) -> float:
    command = ["iperf3", "-c", target.host, "-p", str(target.port(port)), "-P", str(streams)]
    command += ["-t", str(max(1, round(stage.seconds))), "-J"]
    return parse_iperf(stage.hosts.client.run(command, stage.end_cpus, timeout=60))


def datagrams(stage: Stage, target: Target) -> None:
    """Datagrams there and back; each counts as two packets."""
    if target.name == "haproxy" or target.name.startswith("haproxy-"):
        return
    for size in (64, 1400):
        with used(target.pids()) as cpu:
            found = stage.ask(
                "ping",
                target.host,
                target.port(DATAGRAMS),
                size=size,
                sockets=SOCKETS,
                window=WINDOW,
                seconds=stage.seconds,
            )
        packets = 2 * found["done"]
        _record_cpu(stage, target, f"UDP, {size} bytes", cpu, packets)
        stage.record(f"UDP, {size} bytes", "rate", "packets/s", target.name, packets / found["seconds"])


def _record_cpu(stage: Stage, target: Target, axis: str, cpu: Used, done: float) -> None:
    """Microseconds of CPU for each thing done. A peer that did nothing has no figure."""
    if not done:
        return
    if target.pids():
        stage.record(axis, CPU, "µs", target.name, cpu.own * 1e6 / done)
    stage.record(axis, "CPU of the machine", "µs", target.name, cpu.machine * 1e6 / done)
    _record_idle(stage, target, axis, cpu)


def _record_idle(stage: Stage, target: Target, axis: str, cpu: Used) -> None:
    """Who has nothing left to give is the bottleneck: the proxy, or the load generator and the server."""
    for measure, cpus in ((PROXYS_LEFT, stage.proxy_cpus), (ENDS_LEFT, stage.end_cpus)):
        if cpus:
            left = median([cpu.idle[int(number)] for number in cpus.split(",")])
            stage.record(axis, measure, "%", target.name, left * 100)


AXES: dict[str, Axis] = {
    "short": short,
    "keep": keep,
    "latency": latency,
    "large": large,
    "bulk": bulk,
    "datagrams": datagrams,
}


def try_axis(axis: Axis, stage: Stage, target: Target) -> str:
    """Measure; one sentence where a peer fails, which costs no other's figures."""
    try:
        axis(stage, target)
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        return f"{target.name} on {stage.name}: {error}"
    return ""
