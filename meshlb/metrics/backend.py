"""Backends of a node's ports, as families: ten thousand on a large node, so little is done for each. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from meshlb.counts import Statistics
from meshlb.metrics.exposition import Family, escaped, inserted
from meshlb.metrics.port import PORT
from meshlb.model import BackendState, Port, Protocol
from meshlb.table import Backend

MOST = 20_000
BACKEND = (*PORT, "task", "node")


class _Row(NamedTuple):
    labels: str
    of: str  # the labels of its port
    tcp: bool
    backend: Backend
    counts: tuple[int, ...]


def of_backends(
    statistics: Statistics | None, ports: Mapping[Port, str], nodes: Mapping[str, str]
) -> Iterator[Family]:
    """`ports` are the labels of each, `nodes` the names by address."""
    rows = list(_rows(statistics, ports, nodes)) if statistics else []
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
    yield _connect(rows)


def _of_states(rows: list[_Row], ports: Mapping[Port, str]) -> Family:
    """Few series that tell how many backends drain, whatever their number is."""
    found = Counter((row.of, row.backend.state) for row in rows)
    samples = [
        f"{inserted(of, 'state', state)} {found[of, state]}"
        for of in ports.values()
        for state in BackendState
    ]
    text = f"Backends by state: {', '.join(BackendState)}."
    return Family("meshlb_backends", "gauge", text, (*PORT, "state"), samples)


def _up(rows: list[_Row]) -> Family:
    samples = [
        f"{tail} {int(of.state is BackendState.UP and not counts[10])}" for tail, _, _, of, counts in rows
    ]
    text = "1 for one that takes new connections: up, and not set aside after failures."
    return Family("meshlb_backend_up", "gauge", text, BACKEND, samples)


def _of_each(rows: list[_Row], name: str, at: int, text: str, kind: str = "counter") -> Family:
    samples = [f"{tail} {counts[at]}" for tail, _, _, _, counts in rows]
    return Family(f"meshlb_backend_{name}", kind, text, BACKEND, samples)


def _connect(rows: list[_Row]) -> Family:
    """Of UDP nothing answers an attempt."""
    tcp = [(row.labels, row.counts) for row in rows if row.tcp]
    samples = [
        sample
        for tail, counts in tcp
        for sample in (f"_count{tail} {counts[2]}", f"_sum{tail} {counts[11] / 1e6}")
    ]
    text = "How long answers to attempts took (TCP)."
    return Family("meshlb_backend_connect_seconds", "summary", text, BACKEND, samples)


def _rows(statistics: Statistics, ports: Mapping[Port, str], nodes: Mapping[str, str]) -> Iterator[_Row]:
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
            tail = _labels(of, f"{backend.address}:{backend.port} {backend.name}", node)
        if tail not in seen:
            seen.add(tail)
            yield _Row(tail, of, port.protocol is Protocol.TCP, backend, counts)


def _labels(of: str, task: str, node: str) -> str:
    return f'{of[:-1]},task="{escaped(task)}",node="{node}"}}'
