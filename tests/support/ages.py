"""Lists without what changes from second to second: the ages in them, and how wide their columns are."""

from __future__ import annotations

import re


def without_ages(text: str) -> str:
    """What `docker` or `meshlb` lists, to be compared with a list of another moment."""
    text = re.sub(r"\S+ (less than a|about an?|\d+) \w+ ago *", "… ", text)
    return re.sub(r"(CURRENT STATE|CREATED|UPDATED) +", r"\1 ", text)
