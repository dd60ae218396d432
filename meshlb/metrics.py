"""What the agent counts, as families of samples for Prometheus. Pure.

Series are those of the table that is served: a task that is gone has none. A port has at most 97, a backend
9; there are at most MOST_BACKENDS of these.
"""

from __future__ import annotations

import platform
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, islice
from typing import NamedTuple

from meshlb.counts import Statistics
from meshlb.exposition import Family, Sample, escaped, labels
from meshlb.model import BackendState, Histogram, Port, PortCounts, PortState, Protocol, Refused, Status
from meshlb.table import Backend
from meshlb.usage import Usage

MOST_BACKENDS = 20_000
MOST_NODES = 1_000
_PORT = ("service", "port", "protocol")
_BACKEND = (*_PORT, "task", "node")
_BOUNDS = tuple(repr(2 ** (6 + i) / 1e6) for i in range(23))  # seconds, of `meshlb.model.Histogram`
_REASONS = tuple(Refused.__dataclass_fields__)
# The row of `_counts.pxd` without the buckets: a node has ten thousand of them.
_ROW = struct.Struct("=9Q2IQ96xQ96xQ96x")


class _PortRow(NamedTuple):
    labels: str
    counts: PortCounts


class _BackendRow(NamedTuple):
    labels: str
    of: str  # the labels of its port
    tcp: bool
    backend: Backend
    counts: tuple[int, ...]  # of _ROW


def families(status: Status, statistics: Statistics | None, usage: Usage) -> list[Family]:
    """All families. Those of ports and backends have no samples where there are no `statistics`."""
    ports = {of.port: labels(**_names(of.service, of.port)) for of in status.ports}
    nodes = {node.address: node.name for node in status.snapshot.nodes if node.name}
    port_rows = list(_port_rows(statistics, ports)) if statistics else []
    rows = list(_backend_rows(statistics, ports, nodes)) if statistics else []
    return [
        *_of_agent(status, usage, max(0, len(statistics.backends) - MOST_BACKENDS) if statistics else 0),
        *_of_nodes(status, nodes),
        *_of_served(status, ports),
        *_of_ports(port_rows),
        _of_states(rows, ports),
        *_of_backends(rows),
    ]


def _of_agent(status: Status, usage: Usage, left_out: int) -> Iterator[Family]:
    about = {"version": status.version, "python": platform.python_version(), "machine": platform.machine()}
    yield _one("build_info", "The agent's version.", 1, **about)
    yield _one("draining", "1 while the agent is ending and takes no new connections.", status.draining)
    yield _one("problems", "Sentences about what is wrong; /api/v1/status tells them.", len(status.problems))
    yield _one(
        "table_changes", "Tables that have been served; a change makes a new one.", status.table, "counter"
    )
    yield _one("table_changed_timestamp_seconds", "When the table that is served came.", status.table_changed)
    yield _one(
        "backends_left_out", f"Backends without series, for there are more than {MOST_BACKENDS}.", left_out
    )
    yield Family("process_cpu_seconds", "counter", "CPU time, of all threads.", (), (("", usage.cpu),))
    yield Family("process_resident_memory_bytes", "gauge", "Resident memory.", (), (("", usage.memory),))
    yield Family(
        "process_open_fds", "gauge", "File descriptors that are open.", (), (("", usage.descriptors),)
    )
    most = (("", usage.most_descriptors),)
    yield Family("process_max_fds", "gauge", "File descriptors that may be open.", (), most)
    yield Family("process_threads", "gauge", "Threads.", (), (("", usage.threads),))
    started = (("", usage.started),)
    yield Family("process_start_time_seconds", "gauge", "When the process started.", (), started)


def _of_nodes(status: Status, names: Mapping[str, str]) -> Iterator[Family]:
    of, channel = status.source, status.source.channel
    source = {"source": of.kind}
    yield _one(
        "source_connected",
        "1 while the source of tables is there: the engine, or a file.",
        of.connected,
        **source,
    )
    peers, connected, suspected, dead, heard, stale, refused = (
        (
            channel.peers,
            channel.connected,
            channel.suspected,
            channel.dead,
            channel.heard,
            channel.stale,
            channel.refused,
        )
        if channel
        else (0, 0, (), (), 0, 0, 0)
    )
    yield _one("peers", "Other nodes that the channel between agents knows.", peers)
    yield _one("peers_connected", "Those of them whose agents are heard.", connected)
    yield _one("peer_states", "States taken from other agents.", heard, "counter")
    yield _one("peer_stale_states", "States of other agents that were not newer.", stale, "counter")
    yield _one(
        "peer_refusals",
        "Agents that were refused or hung up on, and claims about others.",
        refused,
        "counter",
    )
    nodes = [node.address for node in islice(status.snapshot.nodes, MOST_NODES)]
    nodes += sorted({*suspected} - {*nodes})[:MOST_NODES]
    label = {address: labels(node=names.get(address, address), address=address) for address in nodes}
    for name, those, text in (
        ("node_suspected", suspected, "1 for a node that has fallen silent."),
        ("node_dead", dead, "1 for a node that has been silent for long."),
    ):
        samples = tuple((label[address], int(address in those)) for address in nodes)
        yield Family(f"meshlb_{name}", "gauge", text, ("node", "address"), samples)


def _of_served(status: Status, ports: Mapping[Port, str]) -> Iterator[Family]:
    rows = [(ports[of.port], of.state) for of in status.ports]
    served = tuple((tail, int(state is not PortState.FAILED)) for tail, state in rows)
    yield Family("meshlb_port_up", "gauge", "1 for a port that is served on this node.", _PORT, served)
    redirected = tuple((tail, int(state is PortState.REDIRECTED)) for tail, state in rows)
    yield Family(
        "meshlb_port_redirected",
        "gauge",
        "1 for one that Docker holds and nftables leads here.",
        _PORT,
        redirected,
    )


def _of_ports(rows: list[_PortRow]) -> Iterator[Family]:
    def counter(name: str, text: str, values: Iterable[int], kind: str = "counter") -> Family:
        samples = tuple((row.labels, value) for row, value in zip(rows, values, strict=True))
        return Family(f"meshlb_{name}", kind, text, _PORT, samples)

    counts = [row.counts for row in rows]
    yield counter(
        "connections", "Client connections accepted; of UDP, conversations.", [of.accepted for of in counts]
    )
    yield counter(
        "connections_active", "Those that are open.", [of.accepted - of.closed for of in counts], "gauge"
    )
    yield _refused(rows)
    yield counter(
        "failovers", "Attempts at another backend, after the first.", [of.failovers for of in counts]
    )
    yield counter(
        "connections_held",
        "Connections that had to wait for a backend or a place at one.",
        [of.waited for of in counts],
    )
    yield counter("received_bytes", "Bytes from clients.", [of.received for of in counts])
    yield counter("sent_bytes", "Bytes to clients.", [of.sent for of in counts])
    yield counter("dropped_datagrams", "Datagrams that were dropped.", [of.dropped for of in counts])
    yield _histogram(
        "connect",
        "From accepting a client to a backend's answer.",
        [(of.labels, of.counts.connect) for of in rows],
    )
    yield _histogram(
        "first_byte",
        "From accepting a client to the first byte that it gets.",
        [(of.labels, of.counts.first_byte) for of in rows],
    )
    yield _histogram(
        "connection_duration", "How long connections lived.", [(of.labels, of.counts.duration) for of in rows]
    )


def _refused(rows: list[_PortRow]) -> Family:
    samples = tuple(
        (_and(row.labels, "reason", reason), getattr(row.counts.refused, reason))
        for row in rows
        for reason in _REASONS
    )
    text = f"Clients that were turned away, by reason: {', '.join(_REASONS)}."
    return Family("meshlb_connections_refused", "counter", text, (*_PORT, "reason"), samples)


def _histogram(name: str, text: str, rows: Iterable[tuple[str, Histogram]]) -> Family:
    samples = tuple(sample for tail, of in rows for sample in _buckets(tail, of))
    return Family(f"meshlb_{name}_seconds", "histogram", text, _PORT, samples)


def _buckets(tail: str, of: Histogram) -> Iterator[Sample]:
    *sums, count = accumulate(of.buckets)
    head = f"_bucket{tail[:-1]}"
    yield from ((f'{head},le="{bound}"}}', value) for bound, value in zip(_BOUNDS, sums, strict=True))
    yield f'{head},le="+Inf"}}', count
    yield f"_count{tail}", count
    yield f"_sum{tail}", of.total / 1e6


def _of_states(rows: list[_BackendRow], ports: Mapping[Port, str]) -> Family:
    """Few series that tell how many backends drain, whatever their number is."""
    found = Counter((row.of, row.backend.state) for row in rows)
    samples = tuple(
        (_and(of, "state", state), found[of, state]) for of in ports.values() for state in BackendState
    )
    text = f"Backends by state: {', '.join(BackendState)}."
    return Family("meshlb_backends", "gauge", text, (*_PORT, "state"), samples)


def _of_backends(rows: list[_BackendRow]) -> Iterator[Family]:
    def family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Family:
        return Family(f"meshlb_backend_{name}", kind, text, _BACKEND, tuple(samples))

    def counter(name: str, at: int, text: str, kind: str = "counter") -> Family:
        return family(name, kind, text, [(tail, counts[at]) for tail, _, _, _, counts in rows])

    up = [(tail, int(of.state is BackendState.UP and not counts[10])) for tail, _, _, of, counts in rows]
    yield family(
        "up", "gauge", "1 for one that takes new connections: up, and not set aside after failures.", up
    )
    yield counter("connections", 2, "Connections that it has had.")
    yield counter("connections_active", 9, "Those that are open.", "gauge")
    yield counter("connect_failures", 3, "Attempts to connect that failed.")
    yield counter("received_bytes", 4, "Bytes from clients to it.")
    yield counter("sent_bytes", 5, "Bytes from it to clients.")
    yield counter("retransmitted_segments", 8, "TCP segments that had to be sent again to it.")
    times = [(row.labels, row.counts) for row in rows if row.tcp]
    both = [
        sample
        for tail, counts in times
        for sample in (("_count" + tail, counts[2]), ("_sum" + tail, counts[11] / 1e6))
    ]
    yield family("connect_seconds", "summary", "How long it took to answer attempts (TCP).", both)


def _port_rows(statistics: Statistics, ports: Mapping[Port, str]) -> Iterator[_PortRow]:
    """Ports that are served now; between two looks one may have come or gone."""
    for port, counts in statistics.of_ports():
        if port in ports:
            yield _PortRow(ports[port], counts)


def _backend_rows(
    statistics: Statistics, ports: Mapping[Port, str], nodes: Mapping[str, str]
) -> Iterator[_BackendRow]:
    seen: set[str] = set()
    rows = zip(statistics.backends, _ROW.iter_unpack(statistics.backend_rows), strict=True)
    for (port, backend), counts in islice(rows, MOST_BACKENDS):
        of = ports.get(port)
        if of is None:
            continue
        node = nodes.get(backend.node, backend.node)
        tail = _with_task(of, backend.name, node)
        if tail in seen:  # a file may name one twice, and names that are cut may become one
            tail = _with_task(of, f"{backend.address}:{backend.port} {backend.name}", node)
        if tail not in seen:
            seen.add(tail)
            yield _BackendRow(tail, of, port.protocol is Protocol.TCP, backend, counts)


def _with_task(of: str, task: str, node: str) -> str:
    return f'{of[:-1]},task="{escaped(task)}",node="{escaped(node)}"}}'


def _names(service: str, port: Port) -> dict[str, str]:
    return {"service": service, "port": str(port.published), "protocol": port.protocol}


def _and(tail: str, name: str, value: str) -> str:
    return f"{tail[:-1]},{labels(**{name: value})[1:]}"


def _one(name: str, text: str, value: float, kind: str = "gauge", **about: str) -> Family:
    sample = (labels(**about) if about else "", int(value) if isinstance(value, bool) else value)
    return Family(f"meshlb_{name}", kind, text, tuple(about), (sample,))
