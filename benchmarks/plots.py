"""Bars of the main figures, peer beside peer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import median
from benchmarks.results import CPU, DIRECT, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORDER = (DIRECT, "kernel-dnat", "meshlb", "haproxy", "haproxy-splice", "nginx", "docker-proxy")
_PLOTTED = {  # file: axis, measure, title
    "short-rate": ("short", "rate", "short connections a second"),
    "short-cpu": ("short", CPU, "µs of CPU for a short connection"),
    "keep-rate": ("keep", "rate", "requests a second over lasting connections"),
    "latency-p99": ("latency at 80 %", "p99", "p99 at 80 % of the best rate, ms"),
    "bulk-throughput": ("bulk, 16 streams", "throughput", "Gbit/s, 16 streams"),
    "datagrams-rate": ("UDP, 64 bytes", "rate", "UDP packets a second, 64 bytes"),
}


def draw(results: Results, directory: Path) -> list[str]:
    """The names of the files that were written; none where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        return []
    directory.mkdir(parents=True, exist_ok=True)
    stages = list(dict.fromkeys(key.stage for key in results.samples))
    drawn = []
    for name, (axis, measure, title) in _PLOTTED.items():
        found = [results.find(axis, stage, measure) for stage in stages]
        if any(found):
            figure = Figure(figsize=(9, 3.2), layout="constrained")
            _bars(figure.subplots(), stages, found, title)
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
            drawn.append(f"{name}.svg")
    return drawn


def _bars(axes: Axes, stages: list[str], found: list[dict[str, list[float]]], title: str) -> None:
    names = [name for name in ORDER if any(name in peers for peers in found)]
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        heights = [median(peers[name]) if peers.get(name) else 0.0 for peers in found]
        places = [at + (number - len(names) / 2) * width for at in range(len(stages))]
        axes.bar(places, heights, width, align="edge", label=name)
    axes.set_xticks(range(len(stages)), stages)
    axes.set_title(title)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
