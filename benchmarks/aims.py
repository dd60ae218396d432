"""What meshlb is to reach: ratios to its peers' medians in the same run, and a few figures by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.figures import median
from benchmarks.results import CPU, ENDS_LEFT, IDLE, RESIDENT, Results, best

PROXIES = ("haproxy", "haproxy-splice", "nginx")
OURS = "meshlb"
EXHAUSTED = 5.0  # percent of their time: who loads the proxies had no more to give


@dataclass(frozen=True)
class Aim:
    """A figure of meshlb over the best of some peers, or `over` another of its own. `lowest`: less is better

    With neither peers nor `over` the figure is judged as it is, in its unit.
    """

    what: str
    axis: str
    measure: str
    peers: Sequence[str]
    floor: float
    aim: float
    lowest: bool = False
    over: str = ""


AIMS = (
    Aim("connections/s against HAProxy", "short", "rate", ("haproxy",), 1.10, 1.25),
    Aim("connections/s against nginx", "short", "rate", ("nginx",), 1.05, 1.20),
    Aim("connections/s against docker-proxy", "short", "rate", ("docker-proxy",), 2, 3),
    Aim("CPU for a short connection", "short", CPU, PROXIES, 0.90, 0.75, lowest=True),
    Aim("requests/s over lasting connections", "keep", "rate", PROXIES, 1.05, 1.15),
    Aim("CPU for a request", "keep", CPU, PROXIES, 0.90, 0.80, lowest=True),
    Aim("p99 at 80 % load", "latency at 80 %", "p99", PROXIES, 1.0, 0.8, lowest=True),
    Aim("throughput, 1 stream", "bulk, 1 stream", "throughput", PROXIES, 1.0, 1.15),
    Aim("throughput, 16 streams", "bulk, 16 streams", "throughput", PROXIES, 1.0, 1.15),
    Aim("throughput, 256 streams", "bulk, 256 streams", "throughput", PROXIES, 1.0, 1.15),
    Aim("throughput, answers of 64 KiB", "large", "throughput", PROXIES, 1.0, 1.15),
    Aim("CPU for a GB, 1 stream", "bulk, 1 stream", CPU, PROXIES, 0.9, 0.7, lowest=True),
    Aim("CPU for a GB, 16 streams", "bulk, 16 streams", CPU, PROXIES, 0.9, 0.7, lowest=True),
    Aim("UDP packets/s, 64 bytes, against nginx", "UDP, 64 bytes", "rate", ("nginx",), 2, 3),
    Aim("UDP packets/s, 1,400 bytes, against nginx", "UDP, 1400 bytes", "rate", ("nginx",), 2, 3),
    Aim("user bytes for an idle connection", "memory", IDLE, (), 512, 256, lowest=True),
    Aim(
        "CPU for a connection, 1,000 backends against 1",
        "growth",
        f"{CPU}, 1000 backends",
        (),
        1.05,
        1.01,
        lowest=True,
        over=f"{CPU}, 1 backends",
    ),
    Aim("resident MiB of an idle agent, static source", "memory", RESIDENT, (), 60, 40, lowest=True),
)


@dataclass(frozen=True)
class Judged:
    """An aim with its ratio in a run. `capped`: a rate by which load generator and server were exhausted."""

    aim: Aim
    stage: str
    ratio: float
    capped: bool = False

    @property
    def verdict(self) -> str:
        """`aim`, `floor` or `missed`."""
        sign = -1 if self.aim.lowest else 1
        if self.ratio * sign >= self.aim.aim * sign:
            return "aim"
        return "floor" if self.ratio * sign >= self.aim.floor * sign else "missed"


def judged(results: Results) -> Iterator[Judged]:
    """Every aim on every stage on which it was measured."""
    for aim in AIMS:
        for stage in dict.fromkeys(key.stage for key in results.samples):
            medians = _medians(results, aim.axis, stage, aim.measure)
            theirs = _other(results, aim, stage, medians)
            if OURS in medians and theirs:
                yield Judged(aim, stage, medians[OURS] / theirs, _is_capped(results, aim, stage))


def _other(results: Results, aim: Aim, stage: str, medians: dict[str, float]) -> float | None:
    """What meshlb's figure is divided by."""
    if aim.over:
        return _medians(results, aim.axis, stage, aim.over).get(OURS)
    return best(medians, aim.peers, lowest=aim.lowest) if aim.peers else 1.0


def _is_capped(results: Results, aim: Aim, stage: str) -> bool:
    left = _medians(results, aim.axis, stage, ENDS_LEFT).get(OURS)
    return aim.measure in ("rate", "throughput") and left is not None and left < EXHAUSTED


def _medians(results: Results, axis: str, stage: str, measure: str) -> dict[str, float]:
    peers = results.find(axis, stage, measure)
    return {name: median(values) for name, values in peers.items() if values}
