"""What the agent says of itself, as plain data for JSON. Pure. docs/api.md explains every member.

Labels are left out on purpose: those of other programs may hold secrets.
"""

from __future__ import annotations

from dataclasses import asdict
from heapq import nlargest
from typing import Any

from meshlb.counts import Statistics
from meshlb.model import Node, Port, PortCounts, PortState, PortStatus, Service, Status, Task
from meshlb.table import Backend
from meshlb.timeline import Event
from meshlb.window import Window, quantiles

API = 1  # the version in the paths; members may be added to it, what is there keeps its meaning
_TIMES = ("connect", "first_byte")
_HISTOGRAMS = (*_TIMES, "duration")


def health(status: Status) -> tuple[bool, str]:
    """Whether this node can be sent traffic, and one sentence. One port's failure is not the node's."""
    if status.draining:
        return False, "draining: the agent is ending and takes no new connections"
    if status.source.connected or status.ports:
        return True, "ok"
    return False, status.source.problem or f"the {status.source.kind} source has not told anything yet"


def readiness(status: Status) -> tuple[bool, str]:
    """Whether clients may be sent to this node now, and one sentence: a table is served, and a port of it."""
    healthy, sentence = health(status)
    if not healthy:
        return False, sentence
    if not status.table:
        return False, "no table is served yet"
    if status.ports and all(port.state is PortState.FAILED for port in status.ports):
        return False, "no port is served; /healthz tells why"
    return True, "ok"


def targets(status: Status, address: str, port: int) -> list[dict[str, Any]]:
    """All nodes' agents, for Prometheus' http_sd. `address` and `port` are where this one was asked."""
    nodes = {node.address: node.name for node in status.snapshot.nodes} or {address: ""}
    return [
        {
            "targets": [f"[{at}]:{port}" if ":" in at else f"{at}:{port}"],
            "labels": {"__meta_meshlb_node": name or at},
        }
        for at, name in sorted(nodes.items())
    ]


def health_document(status: Status) -> dict[str, Any]:
    """The body of /healthz."""
    healthy, sentence = health(status)
    return {
        "status": "ok" if healthy else "unavailable",
        "reason": "" if healthy else sentence,
        "failed": [_port_status(port) for port in status.ports if port.state is PortState.FAILED],
        "problems": _problems(status),
    }


def status_document(status: Status) -> dict[str, Any]:
    """The body of /api/v1/status."""
    return {
        "api": API,
        "version": status.version,
        "draining": status.draining,
        "source": _source(status),
        "channel": asdict(status.source.channel) if status.source.channel else None,
        "ports": [_port_status(port) for port in status.ports],
        "services": [_service(service) for service in status.snapshot.services],
        "nodes": [_node(node, status) for node in status.snapshot.nodes],
        "counters": asdict(status.counters) | {"open": status.counters.open},
        "problems": _problems(status),
    }


def _node(node: Node, status: Status) -> dict[str, Any]:
    channel = status.source.channel
    dead, suspected = (channel.dead, channel.suspected) if channel else ((), ())
    return {
        "id": node.id,
        "name": node.name,
        "address": node.address,
        "self": node.address == status.snapshot.node or node.id == status.source.node != "",
        "state": "dead" if node.address in dead else "suspected" if node.address in suspected else "up",
    }


def event_document(event: Event) -> dict[str, Any]:
    """One of the events of /api/v1/events."""
    return {
        "id": event.id,
        "time": round(event.at, 3),
        "kind": event.news.kind,
        "text": event.news.text,
        **event.news.about,
    }


def live_document(statistics: Statistics, window: Window, at: float) -> dict[str, Any]:
    """The counts of /api/v1/events, at a time in seconds since 1970; `window` says what is usual of late."""
    found = told_document(statistics, window, at, len(statistics.backends), idle=True)
    for row in found["ports"]:  # those of backends are for who wants them to take from the buckets
        for name in _TIMES:
            row[name] = quantiles(row[f"{name}_buckets"])
    return found


def told_document(
    statistics: Statistics, window: Window, at: float, most: int, idle: bool = False
) -> dict[str, Any]:
    """The same as other agents are told: of the `most` backends that were chosen most, if they ever were."""
    backends = [each for each in statistics.of_backends_bare() if idle or each[1][0]]
    if len(backends) > most:
        backends = nlargest(most, backends, key=lambda each: each[1][0])
    return {
        "time": round(at, 3),
        "ports": [_port_counts(port, counts, window) for port, counts in statistics.of_ports()],
        "backends": [_backend_counts(*of, counts, window) for of, counts in backends],
    }


def _port_counts(port: Port, counts: PortCounts, window: Window) -> dict[str, Any]:
    connect, first_byte = window.buckets(port)
    return {
        "port": str(port),
        "open": counts.accepted - counts.closed,
        "accepted": counts.accepted,
        "failed": sum(asdict(counts.refused).values()),
        "failovers": counts.failovers,
        "received": counts.received,
        "sent": counts.sent,
        "connect_buckets": connect,
        "first_byte_buckets": first_byte,
    }


def _backend_counts(port: Port, of: Backend, counts: tuple[int, ...], window: Window) -> dict[str, Any]:
    _, _, connected, failed, received, sent, _, _, _, active, standing, *_ = counts
    connect, first_byte = window.buckets((port, of.task, of.address, of.port))
    return {
        "port": str(port),
        "task": of.task,
        "active": active,
        "connected": connected,
        "failed": failed,
        "received": received,
        "sent": sent,
        "aside": standing != 0,
        "connect_buckets": connect,
        "first_byte_buckets": first_byte,
    }


def counts_document(statistics: Statistics) -> dict[str, Any]:
    """The body of /api/v1/counts: what was counted since the start, without the histograms."""
    return {
        "ports": [
            {"port": str(port), "open": counts.accepted - counts.closed} | _plain(asdict(counts))
            for port, counts in statistics.of_ports()
        ],
        "backends": [
            {
                "port": str(port),
                "address": backend.address,
                "backend_port": backend.port,
                "task": backend.task,
            }
            | _plain(asdict(counts))
            for port, backend, counts in statistics.of_backends()
        ],
    }


def _plain(counts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in counts.items() if name not in _HISTOGRAMS}


def _source(status: Status) -> dict[str, Any]:
    found = asdict(status.source)
    del found["channel"]
    return found


def _problems(status: Status) -> list[str]:
    return [problem for problem in (status.source.problem, *status.problems) if problem]


def _port_status(status: PortStatus) -> dict[str, Any]:
    return {
        "port": str(status.port),
        "service": status.service,
        "state": status.state,
        "reason": status.reason,
    }


def _service(service: Service) -> dict[str, Any]:
    return {
        "id": service.id,
        "name": service.name,
        "ports": [
            {"port": str(port), "backends": [_backend(task, port) for task in service.tasks]}
            for port in service.ports
        ],
    }


def _backend(task: Task, port: Port) -> dict[str, Any]:
    return {
        "address": task.address,
        "port": task.port or port.target,
        "task": task.id,
        "name": task.name,
        "node": task.node,
        "state": task.state,
        "weight": task.weight,
    }
