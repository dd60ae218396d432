"""Whether the backends of a port can be reached from here, and for those that cannot: why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from meshlb.cli.probe import REFUSED, Attempt, Finding, Way

MOST_TRIED = 16  # backends, all at once

Row = Mapping[str, str]

_STATES = {
    "suspected": "its node has fallen silent: is it up, and the network between?",
    "draining": "it is about to end, or its health check fails: `docker service ps {service}` tells",
    "drained": "an operator has asked for that: `meshlb undrain {task}` takes it back",
    "paused": "an operator has asked for that: `meshlb undrain {task}` takes it back",
    "down": "it has ended: `docker service ps {service}` tells why",
    "aside": "it failed several times in a row: single connections try it until one succeeds",
}


class Tried(NamedTuple):
    """How a connection to a backend went; `answers` is its kernel's echo, asked for where none was made."""

    attempt: Attempt
    answers: bool | None = None


def attempts(backends: Sequence[Row], way: Way | None, protocol: str) -> list[Tried | None]:
    """A connection to each of the first backends; None for each where that is not tried."""
    if way is None or protocol != "tcp" or not backends:
        return [None] * len(backends[:MOST_TRIED])
    with ThreadPoolExecutor(MOST_TRIED) as pool:
        return list(pool.map(lambda row: _tried(row["Backend"], way), backends[:MOST_TRIED]))


def _tried(backend: str, way: Way) -> Tried:
    address, _, port = backend.rpartition(":")
    address = address.strip("[]")
    made = way.attempt(address, int(port))
    lost = bool(made.error) and made.error != REFUSED and not made.error.endswith("at once")
    return Tried(made, way.answers(address) if lost else None)


def reach(backends: Sequence[Row], tried: Sequence[Tried | None]) -> Iterator[Finding]:
    """Every backend with its state, and how a connection to it went (pure)."""
    for row, one in zip(backends, tried, strict=False):
        yield backend(row, one)
    if len(backends) > len(tried):
        yield Finding(None, f"… and {len(backends) - len(tried)} more, not tried")


def backend(row: Row, tried: Tried | None) -> Finding:
    """One backend (pure)."""
    task = f"{row['Task']} on {row['Node']}" if row["Node"] else row["Task"]
    text = f"backend {row['Backend']} ({task}) is {row['State']}"
    text += f", {row['Active']} connections, {row['Failed']} failed" if row["Active"] else ""
    up = row["State"] == "up"
    why = _STATES.get(row["State"], "").format(service=row["Service"], task=row["Task"])
    if tried is None:
        return Finding(up or None, text, why)
    if tried.attempt.error:
        return Finding(False, f"{text}; a connection to it: {tried.attempt.error}", _advice(row, tried))
    return Finding(up or None, f"{text}; it answers in {tried.attempt.seconds * 1000:.1f} ms", why)


def _advice(row: Row, tried: Tried) -> str:
    port = row["Backend"].rpartition(":")[2]
    where = row["Node"] or "its node"
    if tried.attempt.error == REFUSED:
        return (
            f"nothing in the task listens on port {port}, or only on its 127.0.0.1: does TARGET in "
            "-p PUBLISHED:TARGET fit, and does the server run?"
        )
    if tried.attempt.error.endswith("at once"):
        return f"the server in the task ends it: `docker service logs {row['Service']}`"
    if tried.answers:
        return f"its kernel answers, port {port} does not: a firewall in the task, or a server that hangs"
    if tried.answers is False:
        return (
            f"packets between here and {where} are lost: is it up? `meshlb doctor` tries the way (4789/udp)"
        )
    return f"look at the task: does it listen? Is 4789/udp open between here and {where}?"
