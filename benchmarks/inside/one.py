"""Runs one case so many times, for valgrind to count: one.py CASE TIMES."""

from __future__ import annotations

import gc
import sys

from cases import CASES


def main() -> None:
    name, times = sys.argv[1:]
    run = CASES[name]()
    gc.collect()
    gc.disable()  # whether a collection falls into the last run would decide over more than what is measured
    for _ in range(int(times)):
        run()


if __name__ == "__main__":
    main()
