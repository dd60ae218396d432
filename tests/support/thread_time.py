"""CPU time of single calls."""

from __future__ import annotations

import time
from collections.abc import Callable


def cpu_of(call: Callable[[], object]) -> float:
    """Seconds of this thread's, the best of five."""

    def once() -> float:
        begun = time.thread_time()
        call()
        return time.thread_time() - begun

    return min(once() for _ in range(5))
