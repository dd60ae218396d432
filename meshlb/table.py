"""A snapshot becomes a table: every published port with its policy and its backends. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from meshlb.model import BackendState, Port, Service, Snapshot, Task
from meshlb.policy import LABEL_PREFIX, Policy, from_settings


@dataclass(frozen=True, slots=True)
class Backend:
    """One task's address and port, as the plane connects to it."""

    address: str
    port: int
    task: str
    name: str
    node: str
    state: BackendState


@dataclass(frozen=True, slots=True)
class Entry:
    """One published port of one service: what is listened on, and where its connections go."""

    port: Port
    service: str
    policy: Policy
    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """All that the plane serves, sorted by port. `problems` are sentences about what was left out."""

    entries: tuple[Entry, ...] = ()
    namespace: str = ""
    problems: tuple[str, ...] = ()


def build(snapshot: Snapshot) -> Table:
    """The table of a snapshot. Where two services claim one port, the first in order keeps it."""
    entries: dict[tuple[int, str], Entry] = {}
    problems = list(snapshot.problems)
    for service in sorted(snapshot.services, key=lambda service: (service.name, service.id)):
        for entry, complaints in _entries(service):
            problems += complaints
            key = (entry.port.published, entry.port.protocol)
            holder = entries.setdefault(key, entry)
            if holder is not entry:
                problems.append(
                    f"service {service.name}: port {entry.port} is already published by service "
                    f"{holder.service}; publish another port"
                )
    ordered = tuple(entries[key] for key in sorted(entries))
    return Table(ordered, snapshot.namespace, tuple(dict.fromkeys(problems)))


def _entries(service: Service) -> Iterator[tuple[Entry, tuple[str, ...]]]:
    unreachable = tuple(
        f'service {service.name}: task {task.name} has no usable address ("{task.address}"); left out'
        for task in service.tasks
        if not _is_address(task.address)
    )
    for port in service.ports:
        policy, complaints = _policy(service, port)
        backends = tuple(
            _backend(task, port)
            for task in sorted(service.tasks, key=lambda task: (task.name, task.id))
            if _is_address(task.address)
        )
        yield Entry(port, service.name, policy, backends), complaints + unreachable


def _policy(service: Service, port: Port) -> tuple[Policy, tuple[str, ...]]:
    of_all, of_this = [], []
    this_port = f"port.{port.published}."
    for label, text in service.labels:
        if not label.startswith(LABEL_PREFIX):
            continue
        key = label.removeprefix(LABEL_PREFIX)
        if key.startswith(this_port):
            of_this.append((key.removeprefix(this_port), text))
        elif not key.startswith("port."):
            of_all.append((key, text))
    where = f"service {service.name}: label {LABEL_PREFIX}"
    policy, general = from_settings(of_all, where)
    policy, special = from_settings(of_this, where + this_port, policy)
    return policy, general + special


def _backend(task: Task, port: Port) -> Backend:
    return Backend(task.address, task.port or port.target, task.id, task.name, task.node, task.state)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
