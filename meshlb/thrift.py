"""What is looked at again and again is looked at less often where that costs much.

A cost is CPU time: that a machine is busy, or that others let us wait, is no reason to look away.
"""

from __future__ import annotations

SHARE = 20  # what a look costs us, times that, until the next: 5 % of a core
LONGEST = 5.0  # seconds until the next, whatever one costs


def pause(cost: float, least: float, share: float, longest: float) -> float:
    """Seconds until the next look, after one that cost so many seconds of a core."""
    return max(least, min(cost * share, longest))


def shown_pause(cost: float, least: float) -> float:
    """The same of what is looked at for people."""
    return pause(cost, least, SHARE, LONGEST)
