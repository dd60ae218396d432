"""A snapshot becomes a table: every published port with its policy and its backends. Pure.

`Builder` remembers, which makes it fast and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from meshlb.model import BackendState, Port, Service, Snapshot, Task, is_address
from meshlb.policy import LABEL_PREFIX, Policy, from_settings
from meshlb.text import printable, shown

MOST_PROBLEMS = 1_000  # sentences of a table
MOST_OF_SERVICE = 50  # sentences about one service: its labels are anybody's


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
    prepared: bool = False  # its answers to clients' own addresses find their way back to this node


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
    masked: tuple[str, ...] = ()  # networks of clients whose own address tasks must not see
    living: frozenset[str] = frozenset()  # ids of tasks that are not down, be they backends or not


def build(snapshot: Snapshot) -> Table:
    """The table of a snapshot. Where two services claim one port, the first in order keeps it."""
    return Builder().build(snapshot)


def changed(old: Table, new: Table) -> frozenset[str]:
    """The names of services of which one table has an entry that the other has not taken over as it is."""
    shared = set(map(id, old.entries)) & set(map(id, new.entries))
    return frozenset(entry.service for entry in (*old.entries, *new.entries) if id(entry) not in shared)


class Builder:
    """Builds one table after another; of a service that is as it was they have the same entries."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], _Made] = {}

    def build(self, snapshot: Snapshot) -> Table:
        """As the function."""
        # Of those that managers list (they have ids) no port is kept by what gossip alone still shows.
        ordered = sorted(snapshot.services, key=lambda service: (not service.id, service.name, service.id))
        made = list(self._of(ordered, snapshot.node))
        self._made = {(each.of.name, each.of.id): each for each in made}
        entries, conflicts = _claimed(made)
        problems = [*snapshot.problems, *conflicts, *(problem for each in made for problem in each.problems)]
        return Table(
            entries,
            snapshot.namespace,
            snapshot.namespace_id,
            _told(problems, MOST_PROBLEMS),
            snapshot.absent,
            snapshot.masked,
            snapshot.living,
        )

    def _of(self, services: Iterable[Service], node: str) -> Iterator[_Made]:
        for service in services:
            known = self._made.get((service.name, service.id))
            yield known if known and (known.of, known.node) == (service, node) else _make(service, node)


class _Made(NamedTuple):
    """What becomes of a service on a node."""

    of: Service
    node: str
    entries: tuple[Entry, ...]
    problems: tuple[str, ...]  # sentences about what of its labels and tasks cannot be used


def _claimed(made: Iterable[_Made]) -> tuple[tuple[Entry, ...], list[str]]:
    """Each port once, in order, and sentences about those that more than one service claims."""
    entries: dict[tuple[int, str], Entry] = {}
    conflicts = []
    for service, entry in ((each.of.name, entry) for each in made for entry in each.entries):
        holder = entries.get(key := entry.port.key)
        if holder is None:
            entries[key] = entry
        else:
            conflicts.append(
                f"service {service}: port {entry.port} is already published by service {holder.service}; "
                "publish another port"
            )
    return tuple(entries[key] for key in sorted(entries)), conflicts


def _told(problems: Iterable[str], most: int, where: str = "") -> tuple[str, ...]:
    """Each once, on one line, and no more of them than anybody would read."""
    told = dict.fromkeys(map(printable, filter(None, problems)))
    if len(told) <= most:
        return tuple(told)
    return (*islice(told, most), printable(f"{where}{len(told) - most} more problems; mend the others first"))


def _make(service: Service, node: str) -> _Made:
    settings = _settings(service)
    general = [pair for pair in settings if not pair[0].startswith("port.")]
    base, complaints = from_settings(general, _where(service))
    problems = [*_stray_labels(service, settings), *complaints]
    tasks = [task for task in service.tasks if is_address(task.address)]
    tasks.sort(key=lambda task: (task.name, task.id))
    entries = []
    for port in service.ports:
        policy, complaints = _policy(service, port, settings, base)
        problems += complaints
        backends = tuple(_backend(task, target, node) for task in tasks for target in task.targets(port))
        entries.append(Entry(port, service.name, policy, backends))
    problems += _unreachable(service) if entries else []
    return _Made(service, node, tuple(entries), _told(problems, MOST_OF_SERVICE, f"service {service.name}: "))


def _settings(service: Service) -> list[tuple[str, str]]:
    return [
        (label.removeprefix(LABEL_PREFIX), text)
        for label, text in service.labels
        if label.startswith(LABEL_PREFIX)
    ]


def _where(service: Service) -> str:
    return f"service {service.name}: label {LABEL_PREFIX}"


def _policy(
    service: Service, port: Port, settings: list[tuple[str, str]], base: Policy
) -> tuple[Policy, tuple[str, ...]]:
    """`base`, the policy of all ports of the service, and the labels for this one."""
    this_port = f"port.{port.published}."
    of_this = [(key.removeprefix(this_port), text) for key, text in settings if key.startswith(this_port)]
    return from_settings(of_this, _where(service) + this_port, base)


def _stray_labels(service: Service, settings: list[tuple[str, str]]) -> Iterator[str]:
    """Sentences about labels for ports that the service does not publish, or that name no key."""
    published = {str(port.published) for port in service.ports}
    for key, _ in settings:
        if not key.startswith("port."):
            continue
        number, dot, _ = key.removeprefix("port.").partition(".")
        if number not in published:
            yield f"{_where(service)}{shown(key)}: the service does not publish port {shown(number)}"
        elif not dot:
            yield f"{_where(service)}{key}: names no key; write {LABEL_PREFIX}{key}.KEY"


def _unreachable(service: Service) -> list[str]:
    return [
        f"service {service.name}: task {shown(task.name)} has no usable address "
        f'("{shown(task.address)}"); left out'
        for task in service.tasks
        if not is_address(task.address)
    ]


def _backend(task: Task, port: int, node: str) -> Backend:
    return Backend(
        task.address,
        port,
        task.id,
        task.name,
        task.node,
        task.state,
        task.weight,
        task.node == node,
        task.prepared,
    )
