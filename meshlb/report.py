"""What the agent says of itself, as plain data for JSON. Pure. docs/api.md explains every member.

Labels are left out on purpose: those of other programs may hold secrets.
"""

from __future__ import annotations

from dataclasses import asdict
from heapq import nlargest
from operator import sub
from typing import Any

from meshlb.counts import BACKEND_NUMBERS, PORT_NUMBERS, Statistics, columns
from meshlb.model import Node, Port, PortState, PortStatus, Service, Status, Task, endpoint
from meshlb.table import Backend
from meshlb.timeline import Event
from meshlb.window import Buckets, Window, quantiles

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
            "targets": [endpoint(at, port)],
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
    ports = found["ports"]  # those of backends are for who wants them to take from the buckets
    for name in _TIMES:
        ports[name] = [quantiles(each) for each in ports[f"{name}_buckets"]]
    return found


def told_document(
    statistics: Statistics, window: Window, at: float, most: int, idle: bool = False
) -> dict[str, Any]:
    """The same as other agents are told: of the `most` backends that were chosen most, if they ever were.

    As columns: they are written and checked several times as fast as rows, and are half as long.
    """
    backends = [each for each in statistics.of_backends_bare() if idle or each[1][0]]
    if len(backends) > most:
        backends = nlargest(most, backends, key=lambda each: each[1][0])
    return {
        "time": round(at, 3),
        "ports": _port_columns(list(statistics.of_ports_bare()), window),
        "backends": _backend_columns(backends, window),
    }


def _port_columns(found: list[tuple[Port, tuple[int, ...]]], window: Window) -> dict[str, Any]:
    ports = [port for port, _ in found]
    accepted, closed, failovers, _, received, sent, _, _, *_ = columns(
        (row for _, row in found), PORT_NUMBERS
    )
    return {
        "port": [str(port) for port in ports],
        "open": list(map(sub, accepted, closed)),
        "accepted": accepted,
        "failed": [sum(row[8:14]) for _, row in found],
        "failovers": failovers,
        "received": received,
        "sent": sent,
        **_bucket_columns([window.buckets(port.key) for port in ports]),
    }


def _backend_columns(
    found: list[tuple[tuple[Port, Backend], tuple[int, ...]]], window: Window
) -> dict[str, Any]:
    of = [each for each, _ in found]
    rows = columns((row for _, row in found), BACKEND_NUMBERS)
    _, _, connected, failed, received, sent, _, _, _, active, standing, *_ = rows
    keys = [(port.key, backend.task, backend.address, backend.port) for port, backend in of]
    return {
        "port": [str(port) for port, _ in of],
        "task": [backend.task for _, backend in of],
        "active": active,
        "connected": connected,
        "failed": failed,
        "received": received,
        "sent": sent,
        "aside": list(map(bool, standing)),
        **_bucket_columns([window.buckets(key) for key in keys]),
    }


def _bucket_columns(found: list[tuple[Buckets, Buckets]]) -> dict[str, Any]:
    return {f"{name}_buckets": [each[at] for each in found] for at, name in enumerate(_TIMES)}


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
            {
                "port": str(port),
                "backends": [_backend(task, at) for task in service.tasks for at in task.targets(port)],
            }
            for port in service.ports
        ],
    }


def _backend(task: Task, port: int) -> dict[str, Any]:
    return {
        "address": task.address,
        "port": port,
        "task": task.id,
        "name": task.name,
        "node": task.node,
        "state": task.state,
        "weight": task.weight,
    }
