"""How long things have taken in the last minute: the difference of two looks at the counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal

from meshlb.model import Port, PortCounts

STEP = 5.0  # seconds between two looks that are kept
LOOKS = 12
QUANTILES = (0.5, 0.99)

Histograms = dict[Port, PortCounts]


class Window:
    """The newest counts of ports, beside those of a minute ago, or of the first look if that is later."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Histograms]] = deque(maxlen=LOOKS)
        self._newest: Histograms = {}

    def look(self, now: float, ports: Iterable[tuple[Port, PortCounts]]) -> None:
        """Take what has been counted until `now`, in seconds of any clock."""
        self._newest = dict(ports)
        if not self._looks or now - self._looks[-1][0] >= STEP:
            self._looks.append((now, self._newest))

    def quantiles(self, port: Port, name: Literal["connect", "first_byte"]) -> list[float] | None:
        """The median and the 99th of a hundred, in seconds; None where nothing has been counted."""
        now, before = self._newest.get(port), self._looks[0][1].get(port) if self._looks else None
        if now is None:
            return None
        buckets = getattr(now, name).buckets
        if before is not None:
            old = getattr(before, name).buckets
            buckets = tuple(one - other for one, other in zip(buckets, old, strict=True))
        if min(buckets) < 0 or not sum(buckets):  # a port that was closed and is served again starts at 0
            return None
        return [round(quantile(buckets, share), 6) for share in QUANTILES]


def quantile(buckets: tuple[int, ...], share: float) -> float:
    """In seconds, evenly spread within the bucket; of the last one, which has no end, its beginning."""
    wanted, below = share * sum(buckets), 0
    for index, count in enumerate(buckets):
        low, high = (2 ** (5 + index) if index else 0), 2 ** (6 + index)
        if count and below + count >= wanted:
            last = index == len(buckets) - 1
            return (low if last else low + (high - low) * (wanted - below) / count) / 1e6
        below += count
    return 0.0
