"""No worker asks for the GIL behind our back: Cython does so silently, and tells nobody."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "meshlb"
SOURCES = sorted(PACKAGE.glob("_*.pyx"))
HIDDEN = "__Pyx_ErrOccurredWithGIL()"


def calls_that_ask_for_the_gil(source: Path, target: Path) -> list[str]:
    cython = [sys.executable, "-m", "cython", "-3", "-o", str(target), str(source)]
    subprocess.run(cython, check=True, capture_output=True)
    lines = target.read_text().splitlines()
    return [line.strip() for line in lines if HIDDEN in line and not re.match(r"\s*#|static|.*\{$", line)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_workers_never_ask_for_the_gil(source: Path, tmp_path: Path) -> None:
    assert calls_that_ask_for_the_gil(source, tmp_path / "source.c") == []


@pytest.mark.parametrize("signature", ["cdef void step() nogil", "cdef int step() nogil"])
def test_the_check_sees_what_it_looks_for(tmp_path: Path, signature: str) -> None:
    source = tmp_path / "hidden.pyx"
    body = "pass" if "void" in signature else "return -1"
    source.write_text(
        f"{signature}:\n    {body}\ncdef void loop() noexcept nogil:\n    step()\ndef run():\n    loop()\n"
    )
    assert calls_that_ask_for_the_gil(source, tmp_path / "hidden.c")


def test_only_the_plane_knows_the_extension() -> None:
    """import-linter sees no compiled modules, so this rule is kept here."""
    knowing = {path.name for path in PACKAGE.glob("**/*.py") if "_fastpath" in path.read_text()}
    assert knowing == {"plane.py"}
