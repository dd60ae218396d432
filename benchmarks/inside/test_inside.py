"""How long the inside takes: for a look, as time is noisy. What decides are instructions: `compare`."""

from __future__ import annotations

import pytest
from cases import CASES
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("name", CASES)
def test_inside(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark(CASES[name]())
