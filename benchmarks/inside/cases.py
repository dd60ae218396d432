"""What is measured of the inside: a function for each case, made by another that gets its input ready."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from meshlb import changes
from meshlb.counts import BACKEND_ROW, PORT_ROW, Statistics
from meshlb.metrics import exposition
from meshlb.metrics.families import families
from meshlb.metrics.usage import Usage
from meshlb.model import (
    BackendState,
    Desired,
    Node,
    Port,
    PortState,
    PortStatus,
    Service,
    Snapshot,
    SourceStatus,
    Status,
    Task,
)
from meshlb.peers import message as peer_message
from meshlb.policy import from_settings
from meshlb.swarm import snapshots
from meshlb.swarm import view as docker_view
from meshlb.table import build

Run = Callable[[], object]
PORTS, BACKENDS = 500, 50  # a large Swarm
SCRAPED = 200  # ports of them on a node whose metrics are read
SETTINGS = (
    ("balance", "leastconn"),
    ("locality", "prefer"),
    ("connect-timeout", "500ms"),
    ("retries", "5"),
    ("hold", "30s"),
    ("slow-start", "10s"),
    ("drain", "1m"),
    ("max-conn-backend", "100"),
    ("queue", "500"),
    ("rate", "100/s"),
    ("allow", "10.0.0.0/8,192.168.0.0/16,2001:db8::/32"),
    ("proxy-protocol", "v2"),
    ("check", "tcp"),
)
LABELS = tuple(sorted((f"meshlb.{key}", text) for key, text in SETTINGS[:3]))


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _service(number: int) -> Service:
    tasks = tuple(
        Task(
            f"id-{number}-{task}", f"web-{number}.{task}", _address(number * BACKENDS + task + 1), "10.9.0.1"
        )
        for task in range(BACKENDS)
    )
    return Service(f"id-{number}", f"web-{number}", (Port(10_000 + number, 8000),), tasks, LABELS)


def _snapshot() -> Snapshot:
    return Snapshot(tuple(map(_service, range(PORTS))), node="10.9.0.1")


def _with_one_draining(snapshot: Snapshot) -> Snapshot:
    first, *others = snapshot.services
    tasks = (replace(first.tasks[0], state=BackendState.DRAINING), *first.tasks[1:])
    return replace(snapshot, services=(replace(first, tasks=tasks), *others))


def table_build() -> Run:
    """A snapshot of 500 ports with 50 backends each becomes a table."""
    snapshot = _snapshot()
    return lambda: build(snapshot)


def table_equal() -> Run:
    """Two snapshots that say the same are compared, as with every look at a quiet Swarm."""
    one, two = _snapshot(), _snapshot()
    return lambda: one == two


def table_diff() -> Run:
    """What the log says of a table in which one backend of 25,000 is draining."""
    snapshot = _snapshot()
    old, new = build(snapshot), build(_with_one_draining(snapshot))
    return lambda: list(changes.of_backends(old, new))


def policy() -> Run:
    """A port's labels, good ones."""
    assert not from_settings(SETTINGS, "")[1]
    return lambda: from_settings(SETTINGS, "")


def policy_mistakes() -> Run:
    """The same with a value that is not understood, which costs a sentence."""
    settings = (*SETTINGS[1:], ("balance", "leastcon"))
    assert len(from_settings(settings, "")[1]) == 1
    return lambda: from_settings(settings, "")


def _gossip() -> bytes:
    """The engine's verbose view of its ingress network."""
    services = {service.name: _seen(service) for service in map(_service, range(PORTS))}
    return json.dumps({"Ingress": True, "Services": services, "Peers": []}).encode()


def _seen(service: Service) -> dict[str, Any]:
    tasks = [
        {"Name": f"{task.name}.{task.id}", "EndpointIP": task.address, "Info": {"Host IP": task.node}}
        for task in service.tasks
    ]
    ports = [f"Target: {port.target}, Publish: {port.published}" for port in service.ports]
    return {"VIP": "10.8.0.1", "Ports": ports, "Tasks": tasks}


def view_decoding() -> Run:
    """The engine's answer, from bytes to a snapshot."""
    body, own = _gossip(), Node("id", "node", "10.9.0.1")

    def run() -> Snapshot:
        view = docker_view.parse_view(json.loads(body))
        return snapshots.snapshot(view, None, own, {}, ("", 0))

    found = run()
    assert len(found.services) == PORTS, found.problems[:3]
    assert all(len(service.tasks) == BACKENDS for service in found.services)
    return run


def view_unchanged() -> Run:
    """The same answer once more: how it is known that nothing has changed."""
    body = _gossip()
    return lambda: docker_view.fingerprint(body)


def message_decoding() -> Run:
    """What a manager tells workers of 500 services, from text."""
    services = tuple(replace(service, tasks=()) for service in map(_service, range(PORTS)))
    text = peer_message.encode(peer_message.Version("0" * 16, 1), Desired(services))
    return lambda: peer_message.decode(text)


def metrics_text() -> Run:
    """All metrics of a node of 200 ports with 50 backends each, as Prometheus gets them."""
    entries = build(_snapshot()).entries[:SCRAPED]
    pairs = tuple((entry.port, backend) for entry in entries for backend in entry.backends)
    counted = Statistics(
        tuple(entry.port for entry in entries),
        bytearray(PORT_ROW * len(entries)),
        pairs,
        bytearray(BACKEND_ROW * len(pairs)),
    )
    ports = tuple(PortStatus(entry.port, entry.service, PortState.SERVING) for entry in entries)
    status = Status("0", SourceStatus("swarm", connected=True), ports=ports)
    return lambda: exposition.text(families(status, counted, Usage()))


CASES: dict[str, Callable[[], Run]] = {
    case.__name__: case
    for case in (
        table_build,
        table_equal,
        table_diff,
        policy,
        policy_mistakes,
        view_decoding,
        view_unchanged,
        message_decoding,
        metrics_text,
    )
}
