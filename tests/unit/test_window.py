"""Quantiles of the last minute, from counts that only grow."""

from __future__ import annotations

import pytest

from meshlb.model import Histogram, Port, PortCounts, Refused
from meshlb.window import LOOKS, STEP, Window, quantile

PORT = Port(80, 8000)


def counted(**buckets: int) -> PortCounts:
    numbers = tuple(buckets.get(f"b{at}", 0) for at in range(24))
    histogram = Histogram(0, numbers)
    none = Refused(0, 0, 0, 0, 0, 0)
    return PortCounts(0, 0, 0, 0, 0, 0, 0, 0, none, histogram, histogram, histogram)


@pytest.mark.parametrize(
    ("buckets", "share", "seconds"),
    [
        ((4, 0), 0.5, 32e-6),
        ((0, 100, 0), 0.5, 96e-6),
        ((0, 100, 100, 0), 0.99, 253.44e-6),
        ((0, 0, 5), 0.5, 128e-6),  # the last has no end
        ((0, 0), 0.5, 0.0),
    ],
)
def test_a_quantile_is_within_its_bucket(buckets: tuple[int, ...], share: float, seconds: float) -> None:
    assert quantile(buckets, share) == pytest.approx(seconds)


def test_only_the_last_minute_counts() -> None:
    window = Window()
    assert window.quantiles(PORT, "connect") is None
    window.look(0.0, [(PORT, counted(b20=1000))])
    assert window.quantiles(PORT, "connect") is None  # all of it was before
    window.look(1.0, [(PORT, counted(b20=1000, b1=10))])
    assert window.quantiles(PORT, "connect") == pytest.approx([96e-6, 127e-6], abs=1e-6)
    for step in range(1, LOOKS + 1):
        window.look(1.0 + step * STEP, [(PORT, counted(b20=1000, b1=10))])
    assert window.quantiles(PORT, "first_byte") is None


def test_a_port_that_counts_anew_says_nothing_wrong() -> None:
    window = Window()
    window.look(0.0, [(PORT, counted(b3=50))])
    window.look(1.0, [(PORT, counted(b3=1))])
    assert window.quantiles(PORT, "connect") is None
    window.look(2.0, [])
    assert window.quantiles(PORT, "connect") is None
