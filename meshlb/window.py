"""How long things have taken of late: the difference between the counts and those of up to a minute ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import sub

from meshlb.counts import TIMES, Key, Statistics

STEP = 30.0  # seconds between two looks that are kept: the older of them is as old as that, or twice
QUANTILES = (0.5, 0.99)
BUCKETS = 24  # of one histogram

Buckets = tuple[int, ...]  # those that are not empty: the index of one, what is in it, the next index, …


class Window:
    """The newest counts of ports and backends, beside older ones, or those of the first look."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[Key, bytes]]] = deque(maxlen=2)
        self._newest: dict[Key, bytes] = {}
        self._made: dict[Key, tuple[bytes, tuple[Buckets, Buckets]]] = {}  # of those that have counted since

    def look(self, now: float, counted: Statistics) -> None:
        """Take what has been counted until `now`, in seconds of any clock."""
        self._newest = dict(counted.times())
        if not self._looks or now - self._looks[-1][0] >= STEP:
            self._looks.append((now, self._newest))
            self._made.clear()

    def buckets(self, key: Key) -> tuple[Buckets, Buckets]:
        """The times to connect and to the first byte."""
        now, before = self._newest.get(key), self._looks[0][1].get(key) if self._looks else None
        if now is None or now == before:  # that is how it is with most: nothing is made of them
            return (), ()
        made = self._made.get(key)
        if made is None or made[0] != now:
            made = self._made[key] = now, self._buckets(now, before)
        return made[1]

    @staticmethod
    def _buckets(now: bytes, before: bytes | None) -> tuple[Buckets, Buckets]:
        numbers = TIMES.unpack(now)
        if before is not None:
            numbers = tuple(map(sub, numbers, TIMES.unpack(before)))
        if min(numbers) < 0:  # a port that was closed and is served again starts at 0
            return (), ()
        # Before the buckets of each stand the total of its times and the count.
        return _filled(numbers[2 : 2 + BUCKETS]), _filled(numbers[4 + BUCKETS :])


def _filled(numbers: Sequence[int]) -> Buckets:
    return tuple(part for pair in enumerate(numbers) if pair[1] for part in pair)


def quantiles(buckets: Buckets) -> list[float] | None:
    """The median and the 99th of a hundred, in seconds; None where nothing has been counted."""
    return [round(quantile(buckets, share), 6) for share in QUANTILES] if buckets else None


def quantile(buckets: Buckets, share: float) -> float:
    """In seconds, evenly spread within the bucket; of the last one, which has no end, its beginning."""
    wanted, below = share * sum(buckets[1::2]), 0
    for index, count in zip(buckets[::2], buckets[1::2], strict=True):
        low, high = (2.0 ** (index - 15) if index else 0.0), 2.0 ** (index - 14)
        if below + count >= wanted:
            return low if index == BUCKETS - 1 else low + (high - low) * (wanted - below) / count
        below += count
    return 0.0
