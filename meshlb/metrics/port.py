"""Published ports of a node, as families. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from meshlb.counts import Statistics
from meshlb.metrics.exposition import Family, inserted
from meshlb.model import Histogram, Port, PortCounts, PortState, Refused, Status

PORT = ("service", "port", "protocol")
_REASONS = tuple(Refused.__dataclass_fields__)

Rows = list[tuple[str, PortCounts]]  # the labels of a port, and what was counted of it


def of_ports(status: Status, ports: Mapping[Port, str]) -> Iterator[Family]:
    """How they are served. `ports` are the labels of each."""
    states = [(ports[of.port], of.state) for of in status.ports]
    served = [f"{tail} {int(state is not PortState.FAILED)}" for tail, state in states]
    yield Family("meshlb_port_up", "gauge", "1 for a port that is served on this node.", PORT, served)
    redirected = [f"{tail} {int(state is PortState.REDIRECTED)}" for tail, state in states]
    text = "1 for one that Docker holds and nftables leads here."
    yield Family("meshlb_port_redirected", "gauge", text, PORT, redirected)


def of_counts(statistics: Statistics | None, ports: Mapping[Port, str]) -> Iterator[Family]:
    """What was counted of those that are served now; between two looks one may have come or gone."""
    counted = statistics.of_ports() if statistics else ()
    rows = [(ports[port], counts) for port, counts in counted if port in ports]
    text = "Client connections accepted; of UDP, conversations."
    yield _of_each(rows, "connections", text, lambda of: of.accepted)
    yield _of_each(
        rows, "connections_active", "Those that are open.", lambda of: of.accepted - of.closed, "gauge"
    )
    yield _refused(rows)
    yield _of_each(
        rows, "failovers", "Attempts at another backend, after the first.", lambda of: of.failovers
    )
    text = "Connections that had to wait for a backend or a place at one."
    yield _of_each(rows, "connections_held", text, lambda of: of.waited)
    yield _of_each(rows, "received_bytes", "Bytes from clients.", lambda of: of.received)
    yield _of_each(rows, "sent_bytes", "Bytes to clients.", lambda of: of.sent)
    yield _of_each(rows, "dropped_datagrams", "Datagrams that were dropped.", lambda of: of.dropped)
    text = "Attempts that showed a node's address though the client's own was wanted."
    yield _of_each(rows, "masked_attempts", text, lambda of: of.masked)
    yield _histogram(rows, "connect", "From accepting a client to a backend's answer.", lambda of: of.connect)
    text = "From accepting a client to the first byte that it gets."
    yield _histogram(rows, "first_byte", text, lambda of: of.first_byte)
    yield _histogram(rows, "connection_duration", "How long connections lived.", lambda of: of.duration)


def _of_each(
    rows: Rows, name: str, text: str, value: Callable[[PortCounts], int], kind: str = "counter"
) -> Family:
    return Family(f"meshlb_{name}", kind, text, PORT, [f"{tail} {value(counts)}" for tail, counts in rows])


def _refused(rows: Rows) -> Family:
    samples = [
        f"{inserted(tail, 'reason', reason)} {getattr(counts.refused, reason)}"
        for tail, counts in rows
        for reason in _REASONS
    ]
    text = f"Clients that were turned away, by reason: {', '.join(_REASONS)}."
    return Family("meshlb_connections_refused", "counter", text, (*PORT, "reason"), samples)


def _histogram(rows: Rows, name: str, text: str, of: Callable[[PortCounts], Histogram]) -> Family:
    found = [(tail, of(counts)) for tail, counts in rows]
    return Family(f"meshlb_{name}_seconds", "histogram", text, PORT, histograms=found)
