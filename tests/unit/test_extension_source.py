"""No worker asks for the GIL behind our back: Cython does so silently, and tells nobody."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshlb.metrics.histogram import BOUNDS

PACKAGE = Path(__file__).parents[2] / "meshlb"
SOURCES = sorted(PACKAGE.glob("_*.pyx"))
HIDDEN = "__Pyx_ErrOccurredWithGIL()"


ASKING = {"void": "pass", "int": "return -1"}  # what a step returns, and how


def cythonized(target: Path, *sources: Path) -> Path:
    """The folder with their C. One process makes it of all: to start Cython takes longer than to run it."""
    command = [sys.executable, "-m", "cython", "-3", "-o", f"{target}/", *map(str, sources)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def calls_that_ask_for_the_gil(source: Path) -> list[str]:
    lines = source.read_text().splitlines()
    return [line.strip() for line in lines if HIDDEN in line and not re.match(r"\s*#|static|.*\{$", line)]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cythonized(tmp_path_factory.mktemp("ours"), *SOURCES)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workers that ask for the GIL, named by what a step of theirs returns."""
    folder = tmp_path_factory.mktemp("hidden")
    for kind, body in ASKING.items():
        (folder / f"{kind}.pyx").write_text(
            f"cdef {kind} step() nogil:\n    {body}\ncdef void loop() noexcept nogil:\n    step()\n"
            "def run():\n    loop()\n"
        )
    return cythonized(folder, *folder.glob("*.pyx"))


@pytest.mark.parametrize("name", [source.stem for source in SOURCES])
def test_workers_never_ask_for_the_gil(ours: Path, name: str) -> None:
    assert calls_that_ask_for_the_gil(ours / f"{name}.c") == []


@pytest.mark.parametrize("kind", ASKING)
def test_the_check_sees_what_it_looks_for(hidden: Path, kind: str) -> None:
    assert calls_that_ask_for_the_gil(hidden / f"{kind}.c")


def test_only_the_plane_knows_the_extension() -> None:
    """import-linter sees no compiled modules, so this rule is kept here."""
    knowing = {path.name for path in PACKAGE.glob("**/*.py") if "_fastpath" in path.read_text()}
    assert knowing == {"plane.py"}


def test_buckets_end_at_powers_of_two_of_seconds() -> None:
    """As `meshlb.metrics.histogram` tells Prometheus; a bound itself is in the bucket that it ends."""
    found = re.search(r"PER_MICROSECOND = (\d+)", (PACKAGE / "_types.pxd").read_text())
    assert found
    for index, bound in enumerate(BOUNDS):
        for microseconds, bucket in ((bound * 1e6, index), (bound * 1.0001e6 + 1, index + 1)):
            assert (int(microseconds) * int(found[1]) >> 20).bit_length() == bucket, bound
