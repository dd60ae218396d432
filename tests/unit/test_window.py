"""Quantiles of the last minute, from counts that only grow."""

from __future__ import annotations

import pytest

from meshlb.counts import _BACKEND, _PORT, Statistics
from meshlb.model import BackendState, Port
from meshlb.table import Backend
from meshlb.window import STEP, Window, quantile, quantiles

PORT = Port(80, 8000)
BACKEND = Backend("10.0.0.1", 8000, "t1", "web.1", "192.0.2.1", BackendState.UP)
KEY = (PORT.key, "t1", "10.0.0.1", 8000)


def counted(
    connect: dict[int, int], first_byte: dict[int, int] | None = None, port: Port = PORT
) -> Statistics:
    """Of one port, and the same of its one backend."""
    first_byte = connect if first_byte is None else first_byte
    rows = [
        [0, sum(each.values()), *(each.get(at, 0) for at in range(24))] for each in (connect, first_byte, {})
    ]
    times = [number for row in rows for number in row]
    return Statistics(
        (port,),
        bytearray(_PORT.pack(*[9] * 14, *times)),
        ((port, BACKEND),),
        bytearray(_BACKEND.pack(*[9] * 11, *times)),
    )


@pytest.mark.parametrize(
    ("buckets", "share", "seconds"),
    [
        ((0, 4), 0.5, 2**-15),
        ((1, 100), 0.5, 1.5 * 2**-14),
        ((1, 100, 2, 100), 0.99, 1.98 * 2**-13),
        ((23, 5), 0.5, 256.0),  # the last has no end
        ((), 0.5, 0.0),
    ],
)
def test_a_quantile_is_within_its_bucket(buckets: tuple[int, ...], share: float, seconds: float) -> None:
    assert quantile(buckets, share) == pytest.approx(seconds)


def test_only_the_last_minute_counts() -> None:
    window = Window()
    assert window.buckets(PORT.key) == ((), ())
    window.look(0.0, counted({20: 1000}))
    assert window.buckets(PORT.key) == ((), ())  # all of it was before
    window.look(1.0, counted({20: 1000, 1: 10}, {20: 1000, 3: 7}))
    for key in (PORT.key, KEY):
        assert window.buckets(key) == ((1, 10), (3, 7))
    assert quantiles(window.buckets(PORT.key)[0]) == pytest.approx([1.5 * 2**-14, 1.98 * 2**-14], abs=1e-6)
    for now in (STEP, STEP * 1.5, STEP * 2 - 1):
        window.look(now, counted({20: 1000, 1: 10}))
        assert window.buckets(KEY) == ((1, 10), (1, 10))
    window.look(STEP * 2, counted({20: 1000, 1: 12}))
    assert window.buckets(KEY) == ((1, 2), (1, 2))  # since half a minute ago


def test_who_came_meanwhile_counts_from_nothing() -> None:
    window = Window()
    window.look(0.0, Statistics((), bytearray(), (), bytearray()))
    window.look(1.0, counted({2: 3}))
    assert window.buckets(KEY) == ((2, 3), (2, 3))


def test_a_port_that_leads_to_another_target_is_the_same_port() -> None:
    window = Window()
    window.look(0.0, counted({20: 1000}))
    window.look(1.0, counted({20: 1000, 1: 10}, port=Port(80, 9000)))
    for key in (PORT.key, KEY):
        assert window.buckets(key) == ((1, 10), (1, 10))


def test_a_port_that_counts_anew_says_nothing_wrong() -> None:
    window = Window()
    window.look(0.0, counted({3: 50}))
    window.look(1.0, counted({3: 1}))
    assert window.buckets(PORT.key) == ((), ())
    window.look(2.0, Statistics((), bytearray(), (), bytearray()))
    assert window.buckets(PORT.key) == ((), ())
    assert quantiles(()) is None
