"""How long things took, as the samples of a histogram. Pure."""

from __future__ import annotations

from itertools import accumulate

from meshlb.model import Histogram

BOUNDS = tuple(2.0 ** (i - 14) for i in range(23))  # seconds, of `meshlb.model.Histogram`
_TEXTS = tuple(map(repr, BOUNDS))


def samples(tail: str, of: Histogram) -> list[str]:
    """What follows a histogram's name, with these labels."""
    *sums, count = accumulate(of.buckets)
    head = f"_bucket{tail[:-1]}"
    found = [f'{head},le="{bound}"}} {value}' for bound, value in zip(_TEXTS, sums, strict=True)]
    return [*found, f'{head},le="+Inf"}} {count}', f"_count{tail} {count}", f"_sum{tail} {of.total / 1e6}"]
