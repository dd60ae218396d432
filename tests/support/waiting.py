"""Waiting on conditions, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(predicate: Callable[[], object], *, timeout: float, what: str, every: float = 0.01) -> None:
    """Returns once `predicate` holds; AssertionError, naming `what` is awaited, after `timeout` seconds.

    It is asked again `every` so many seconds.
    """
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(every)
