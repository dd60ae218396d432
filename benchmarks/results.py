"""A run's results: samples in one JSON file, with the machine, the versions and the command."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures import median, spread
from benchmarks.hosts import ROOT

VERSION = 1  # of the file's format
DIRECT = "direct"
CPU = "CPU of the proxy"  # for a connection, request, packet or MiB
IDLE, RESIDENT = "user, for each idle connection", "resident, idle"  # memory
PROXYS_LEFT, ENDS_LEFT = "idle, the proxy's cores", "idle, the ends' cores"  # percent


@dataclass(frozen=True)
class Key:
    """What was measured: `stage` is topology and cores ("wire-one"), `measure` a figure of an axis."""

    axis: str
    stage: str
    measure: str
    unit: str


@dataclass
class Results:
    """Samples of each peer, in the order of the rounds."""

    about: dict[str, str] = field(default_factory=dict)
    samples: dict[Key, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, key: Key, peer: str, value: float) -> None:
        """One sample."""
        self.samples.setdefault(key, {}).setdefault(peer, []).append(value)

    def find(self, axis: str, stage: str, measure: str) -> dict[str, list[float]]:
        """All peers' samples; empty where it was not measured."""
        return next(
            (
                by
                for key, by in self.samples.items()
                if (key.axis, key.stage, key.measure) == (axis, stage, measure)
            ),
            {},
        )

    def save(self, path: Path) -> None:
        """As JSON."""
        rows = [{**asdict(key), "peers": peers} for key, peers in self.samples.items()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"version": VERSION, "about": self.about, "samples": rows}, indent=1) + "\n"
        )


def load(path: Path) -> Results:
    """What `save` has written; ValueError says what is wrong with it."""
    try:
        found = json.loads(path.read_text())
        rows = [
            (Key(*(row[name] for name in ("axis", "stage", "measure", "unit"))), row["peers"])
            for row in found["samples"]
        ]
        if found["version"] != VERSION:
            raise ValueError(f"its format is {found['version']}, this program reads {VERSION}")
        return Results(found["about"], dict(rows))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a benchmark's results: {error}") from error


def about(command: str) -> dict[str, str]:
    """The machine, as a reader needs it to judge the figures."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "board": _board(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "temperature": _temperature(),
        "network": _network(),
        "python": platform.python_version(),
        "haproxy": _version(r"version (\S+)", "haproxy", "-v"),
        "nginx": _version(r"nginx/(\S+)", "nginx", "-v"),
        "docker": _version(r"version (\S+),", "dockerd", "--version"),
    }


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def _version(pattern: str, *command: str) -> str:
    found = re.search(pattern, _said(*command))
    return found[1] if found else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip("\0\n ")
    except OSError:
        return ""


def _board() -> str:
    return _text("/proc/device-tree/model") or _text("/sys/class/dmi/id/product_name")


def _processor() -> str:
    found = re.search(r"(?:model name|Model)\s*: (.*)", _text("/proc/cpuinfo"))
    return found[1] if found else platform.machine()


def _temperature() -> str:
    millidegrees = _text("/sys/class/thermal/thermal_zone0/temp")
    return f"{int(millidegrees) / 1000:.0f} °C" if millidegrees.isdecimal() else ""


def _network() -> str:
    speeds = {path.parent.name: _text(str(path)) for path in Path("/sys/class/net").glob("*/speed")}
    return ", ".join(f"{name} {speed} Mbit/s" for name, speed in sorted(speeds.items()) if speed.isdecimal())


def rows(results: Results) -> Iterator[tuple[Key, dict[str, tuple[float, float]]]]:
    """Each figure with every peer's median and spread."""
    for key, peers in results.samples.items():
        yield key, {peer: (median(values), spread(values)) for peer, values in peers.items() if values}


def best(peers: dict[str, float], names: Iterable[str], *, lowest: bool) -> float | None:
    """The best value of these peers; None where none was measured."""
    values = [peers[name] for name in names if name in peers]
    if not values:
        return None
    return min(values) if lowest else max(values)
