"""Natural order: web2 comes before web10 (pure)."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"(\d+)", re.ASCII)


def natural(text: str) -> tuple[tuple[int, str], ...]:
    """A sort key in which runs of digits compare as numbers."""
    parts = _DIGITS.split(text)
    # Split puts the digits at the odd places, so equal places always compare like with like.
    return tuple((int(part), part) if place % 2 else (0, part) for place, part in enumerate(parts))
