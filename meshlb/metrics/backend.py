"""Backends of a node's ports, as families: ten thousand on a large node, so little is done for each. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from meshlb.counts import BACKEND_NUMBERS, Statistics, columns
from meshlb.metrics.exposition import Family, escaped, inserted
from meshlb.metrics.port import PORT
from meshlb.model import BackendState, Port, Protocol, endpoint
from meshlb.table import Backend

MOST = 20_000
BACKEND = (*PORT, "task", "node")

_Found = tuple[bool, str, str, Backend, tuple[int, ...]]  # whether it is TCP, and what a column has


class _Rows(NamedTuple):
    """Backends as columns, which are fast to write one after another."""

    labels: tuple[str, ...]
    of: tuple[str, ...]  # the labels of its port
    backends: tuple[Backend, ...]
    counts: Sequence[Sequence[int]]  # by their place in a row of `of_backends_bare`


def of_backends(
    statistics: Statistics | None, ports: Mapping[Port, str], nodes: Mapping[str, str]
) -> Iterator[Family]:
    """`ports` are the labels of each, `nodes` the names by address."""
    found = list(_found(statistics, ports, nodes)) if statistics else []
    rows = _columns(found)
    left_out = max(0, len(statistics.backends) - MOST) if statistics else 0
    text = f"Backends without series, for there are more than {MOST}."
    yield Family("meshlb_backends_left_out", "gauge", text, (), (f" {left_out}",))
    yield _of_states(rows, ports)
    yield _up(rows)
    yield _of_each(rows, "connections", 2, "Connections that it has had.")
    yield _of_each(rows, "connections_active", 9, "Those that are open.", "gauge")
    yield _of_each(rows, "connect_failures", 3, "Attempts to connect that failed.")
    yield _of_each(rows, "received_bytes", 4, "Bytes from clients to it.")
    yield _of_each(rows, "sent_bytes", 5, "Bytes from it to clients.")
    yield _of_each(rows, "retransmitted_segments", 8, "TCP segments that had to be sent again to it.")
    tcp = _columns([each for each in found if each[0]])  # of UDP nothing answers an attempt
    yield _summary(tcp, "connect", 11, "How long answers to attempts took (TCP).")
    text = "From accepting a client, or a conversation's first datagram, to the first byte that it gets."
    yield _summary(rows, "first_byte", 13, text)
    yield _summary(rows, "connection_duration", 15, "How long its connections lived, the attempt included.")


def _columns(found: list[_Found]) -> _Rows:
    _, labels, of, backends, counts = zip(*found, strict=True) if found else ((),) * 5
    return _Rows(labels, of, backends, columns(counts, BACKEND_NUMBERS))


def _of_states(rows: _Rows, ports: Mapping[Port, str]) -> Family:
    """Few series that tell how many backends drain, whatever their number is."""
    found = Counter(zip(rows.of, (backend.state for backend in rows.backends), strict=True))
    samples = [
        f"{inserted(of, 'state', state)} {found[of, state]}"
        for of in ports.values()
        for state in BackendState
    ]
    text = f"Backends by state: {', '.join(BackendState)}."
    return Family("meshlb_backends", "gauge", text, (*PORT, "state"), samples)


def _up(rows: _Rows) -> Family:
    samples = [
        f"{tail} {int(of.state is BackendState.UP and not standing)}"
        for tail, of, standing in zip(rows.labels, rows.backends, rows.counts[10], strict=True)
    ]
    text = "1 for one that takes new connections: up, and not set aside after failures."
    return Family("meshlb_backend_up", "gauge", text, BACKEND, samples)


def _of_each(rows: _Rows, name: str, at: int, text: str, kind: str = "counter") -> Family:
    samples = [f"{tail} {count}" for tail, count in zip(rows.labels, rows.counts[at], strict=True)]
    return Family(f"meshlb_backend_{name}", kind, text, BACKEND, samples)


def _summary(rows: _Rows, name: str, at: int, text: str) -> Family:
    """`at` is where a row has the total of the times, before their count."""
    totals, counts = rows.counts[at : at + 2]
    samples = [
        sample
        for tail, total, count in zip(rows.labels, totals, counts, strict=True)
        for sample in (f"_count{tail} {count}", f"_sum{tail} {total / 1e6}")
    ]
    return Family(f"meshlb_backend_{name}_seconds", "summary", text, BACKEND, samples)


def _found(statistics: Statistics, ports: Mapping[Port, str], nodes: Mapping[str, str]) -> Iterator[_Found]:
    """Of ports that are served now. Two that would have the same labels are told apart by their addresses."""
    seen: set[str] = set()
    on = {address: escaped(name) for address, name in nodes.items()}
    for (port, backend), counts in islice(statistics.of_backends_bare(), MOST):
        of = ports.get(port)
        if of is None:
            continue
        node = on.get(backend.node) or on.setdefault(backend.node, escaped(backend.node))
        tail = _labels(of, backend.name, node)
        if tail in seen:  # a file may name one twice, and names that are cut may become one
            tail = _labels(of, f"{endpoint(backend.address, backend.port)} {backend.name}", node)
        if tail not in seen:
            seen.add(tail)
            yield port.protocol is Protocol.TCP, tail, of, backend, counts


def _labels(of: str, task: str, node: str) -> str:
    return f'{of[:-1]},task="{escaped(task)}",node="{node}"}}'
