"""Pure arithmetic over samples: medians, spreads, histograms, slopes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles, as a share of the median; 0 of a single value."""
    middle = median(values)
    if len(values) < 2 or not middle:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return abs((high - low) / 2 / middle)


def lower_edge(cell: int) -> int:
    """The smallest value that `_load.cell` puts into this cell."""
    if cell < 64:
        return cell
    shift = cell // 32 - 1
    return (cell - shift * 32) << shift


def percentile(cells: Mapping[str, int], share: float) -> float:
    """The seconds that this share of a histogram of nanoseconds does not exceed; 0 of an empty one."""
    wanted = share * sum(cells.values())
    seen = 0
    for cell, count in sorted((int(cell), count) for cell, count in cells.items()):
        seen += count
        if seen >= wanted:
            return lower_edge(cell) / 1e9
    return 0.0


def slope(points: Sequence[tuple[float, float]]) -> float:
    """What y grows by with x, by least squares."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
