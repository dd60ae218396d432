"""A snapshot becomes a table: every published port with its policy and its backends. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshlb.model import BackendState, Port, Service, Snapshot, Task, is_address
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
    weight: int = 1
    local: bool = True  # on the node that this table is for


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
    namespace_id: int = 0  # changes when the file at `namespace` is replaced
    problems: tuple[str, ...] = ()
    absent: BackendState = (
        BackendState.DRAINING
    )  # what a backend is that an earlier table had and this one has not


def build(snapshot: Snapshot) -> Table:
    """The table of a snapshot. Where two services claim one port, the first in order keeps it."""
    entries: dict[tuple[int, str], Entry] = {}
    problems = list(snapshot.problems)
    for service in sorted(snapshot.services, key=lambda service: (service.name, service.id)):
        problems += _stray_labels(service)
        for entry, complaints in _entries(service, snapshot.node):
            problems += complaints
            key = (entry.port.published, entry.port.protocol)
            holder = entries.setdefault(key, entry)
            if holder is not entry:
                problems.append(
                    f"service {service.name}: port {entry.port} is already published by service "
                    f"{holder.service}; publish another port"
                )
    ordered = tuple(entries[key] for key in sorted(entries))
    return Table(
        ordered,
        snapshot.namespace,
        snapshot.namespace_id,
        tuple(dict.fromkeys(problems)),
        snapshot.absent,
    )


def _entries(service: Service, node: str) -> Iterator[tuple[Entry, tuple[str, ...]]]:
    unreachable = tuple(
        f'service {service.name}: task {task.name} has no usable address ("{task.address}"); left out'
        for task in service.tasks
        if not is_address(task.address)
    )
    for port in service.ports:
        policy, complaints = _policy(service, port)
        backends = tuple(
            _backend(task, port, node)
            for task in sorted(service.tasks, key=lambda task: (task.name, task.id))
            if is_address(task.address)
        )
        yield Entry(port, service.name, policy, backends), complaints + unreachable


def _policy(service: Service, port: Port) -> tuple[Policy, tuple[str, ...]]:
    """The labels for all ports of the service, then those for this one."""
    where, this_port = f"service {service.name}: label {LABEL_PREFIX}", f"port.{port.published}."
    settings = [
        (label.removeprefix(LABEL_PREFIX), text)
        for label, text in service.labels
        if label.startswith(LABEL_PREFIX)
    ]
    of_all = [pair for pair in settings if not pair[0].startswith("port.")]
    of_this = [(key.removeprefix(this_port), text) for key, text in settings if key.startswith(this_port)]
    policy, general = from_settings(of_all, where)
    policy, special = from_settings(of_this, where + this_port, policy)
    return policy, general + special


def _stray_labels(service: Service) -> Iterator[str]:
    """Sentences about labels for ports that the service does not publish."""
    published = {str(port.published) for port in service.ports}
    for label, _ in service.labels:
        number = label.removeprefix(f"{LABEL_PREFIX}port.").partition(".")[0]
        if label.startswith(f"{LABEL_PREFIX}port.") and number not in published:
            yield f"service {service.name}: label {label}: the service does not publish port {number}"


def _backend(task: Task, port: Port, node: str) -> Backend:
    return Backend(
        task.address,
        task.port or port.target,
        task.id,
        task.name,
        task.node,
        task.state,
        task.weight,
        task.node == node,
    )
