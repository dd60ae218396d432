"""The workers' loops, as families. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from meshlb.counts import Statistics
from meshlb.metrics.exposition import Family, labels

WORKER = ("worker",)


def of_workers(statistics: Statistics | None) -> Iterator[Family]:
    """How much and how long each is at work between two waits."""
    rows = list(statistics.of_workers()) if statistics else []
    tails = [labels(worker=str(number)) for number in range(len(rows))]
    turns = [f"{tail} {count}" for tail, (count, _) in zip(tails, rows, strict=True)]
    yield Family("meshlb_worker_turns", "counter", "Turns of a worker's loop.", WORKER, turns)
    found = [(tail, of) for tail, (_, of) in zip(tails, rows, strict=True)]
    text = "How long a turn took, without the waiting; one of 64 is timed."
    yield Family("meshlb_worker_turn_seconds", "histogram", text, WORKER, histograms=found)
