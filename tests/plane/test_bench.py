"""scripts/bench as its users run it, cut down to seconds: it measures, reports, compares, and cleans up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.proxies import PEERS_BY_NAME, missing
from benchmarks.results import CPU
from benchmarks.share import SHARE, why_not

ROOT = Path(__file__).parents[2]
NO_SHARE = why_not()


@pytest.fixture(scope="module", autouse=True)
def load_generator() -> None:
    """The benchmarks' own extension, which scripts/bench builds."""
    command = [sys.executable, "benchmarks/setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=110)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def namespaces() -> set[str]:
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in found.stdout.splitlines() if line.startswith("meshlb-bench-")}


def measured(output: Path) -> dict[tuple[str, str], dict[str, list[float]]]:
    found = json.loads(output.read_text())["samples"]
    return {(row["axis"], row["measure"]): row["peers"] for row in found}


def test_a_run_from_measuring_to_comparing(tmp_path: Path) -> None:
    output, before = tmp_path / "results.json", namespaces()
    options = ["--quick", "--rounds", "1", "--seconds", "0.3", "--anyway", "--output", str(output)]
    done = bench("run", *options, "--axes", "short", "--scalings", "")  # of all peers that this machine has
    assert done.returncode == 0, done.stderr
    assert namespaces() <= before, "none is left behind"
    samples = measured(output)
    failed = samples["short", "failed"]
    assert failed.keys() == {"direct", *PEERS_BY_NAME} - set(missing())
    assert set(map(tuple, failed.values())) == {(0,)}
    assert min(rate for rates in samples["short", "rate"].values() for rate in rates) > 0
    assert "| short | rate, connections/s |" in bench("report", str(output)).stdout
    assert bench("compare", str(output), str(output)).returncode == 0


@pytest.mark.skipif(bool(NO_SHARE), reason=NO_SHARE)
def test_proxies_have_their_share_of_a_core_and_no_more(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    options = ["--stages", "wire-share", "--rounds", "1", "--anyway", "--output", str(output)]
    done = bench("run", *options, "--peers", "meshlb", "--axes", "short", "--scalings", "")
    assert done.returncode == 0, done.stderr
    samples = measured(output)
    (rate,), (each,) = samples["short", "rate"]["meshlb"], samples["short", CPU]["meshlb"]
    assert 0 < rate * each / 1e6 < SHARE * 1.2
    groups = [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names]
    assert not [name for name in groups if name.startswith("meshlb-bench-")], "no group is left behind"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--axes", "shrt"), "shrt is not one of short, "),
        (("run", "--peers", "envoy"), "envoy is not one of meshlb, "),
        (("report", "/nowhere.json"), "/nowhere.json is not a benchmark's results"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
