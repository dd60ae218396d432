"""What an operator has asked of single backends: to drain, to pause, to come back.

An order is for a task and all its ports, and for this node alone. It holds while the task lives, whatever the
table does meanwhile; a task that has been missing for long has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from meshlb.errors import MeshError
from meshlb.model import BackendState, Service, Snapshot, Task, endpoint
from meshlb.table import Backend, Entry, Table
from meshlb.text import shown

VERBS = {"drain": BackendState.DRAINED, "pause": BackendState.PAUSED, "undrain": BackendState.UP}
MOST = 256  # orders at a time
MISSING = 600.0  # seconds without a task until its order is forgotten
_LONGEST = 128  # characters of a task's id
_LISTED = 5  # backends that a refusal names


@dataclass(slots=True)
class _Order:
    state: BackendState
    seen: float  # when the task was last there


class Orders:
    """The orders that hold on this node."""

    def __init__(self) -> None:
        self._orders: dict[str, _Order] = {}  # by the task's id

    def lay_over(self, snapshot: Snapshot, now: float) -> Snapshot:
        """The snapshot with its tasks as ordered. `now` is any clock's seconds."""
        if not self._orders:
            return snapshot
        self._forget({task.id for service in snapshot.services for task in service.tasks}, now)
        return replace(snapshot, services=tuple(map(self._service, snapshot.services)))

    def give(self, verb: str, name: str, force: bool, table: Table, now: float) -> str:
        """Have an order hold from the next `lay_over` on. Gives a sentence; MeshError refuses."""
        if verb not in VERBS:
            raise MeshError(f"{shown(verb)} is not one of {', '.join(VERBS)}")
        task = _found(name, table)
        own = list(_of_task(task, table))
        places = dict.fromkeys(endpoint(one.address, one.port) for _, one in own)
        what = f"{shown(own[0][1].name)} ({', '.join(places)})"
        if verb == "undrain":
            known = self._orders.pop(task, None)
            return f"{what} {'takes new connections again' if known else 'was neither drained nor paused'}"
        if not force:
            _refuse_last(own, what)
        if task not in self._orders and len(self._orders) >= MOST:
            raise MeshError(f"{MOST} backends are drained or paused already: undrain some first")
        self._orders[task] = _Order(VERBS[verb], now)
        return f"{what} is {VERBS[verb]}: no new connections from this node; {_rest(verb, own)}"

    def told(self) -> dict[str, str]:
        """All of them, for the disk and for the agent that takes over."""
        return {task: order.state.value for task, order in self._orders.items()}

    def adopt(self, told: object, now: float) -> None:
        """These instead of those known so far; what is no order is left out. None tells nothing."""
        if not isinstance(told, dict):
            return
        self._orders.clear()
        for task, state in list(told.items())[:MOST]:
            if state in (BackendState.DRAINED, BackendState.PAUSED) and len(str(task)) <= _LONGEST:
                self._orders[str(task)] = _Order(BackendState(state), now)

    def _forget(self, there: set[str], now: float) -> None:
        for task, order in list(self._orders.items()):
            if task in there:
                order.seen = now
            elif now - order.seen > MISSING:
                del self._orders[task]

    def _service(self, service: Service) -> Service:
        if not any(task.id in self._orders for task in service.tasks):
            return service
        return replace(service, tasks=tuple(map(self._task, service.tasks)))

    def _task(self, task: Task) -> Task:
        order = self._orders.get(task.id)
        dead = task.state is BackendState.DOWN
        return task if order is None or dead else replace(task, state=order.state)


def _found(name: str, table: Table) -> str:
    """The id of the one task that is meant."""
    backends = [backend for entry in table.entries for backend in entry.backends]
    by_name = {
        one.task for one in backends if name in (one.name, one.task) or one.name == f"{name}.{one.task}"
    }
    by_address = {one.task for one in backends if name == endpoint(one.address, one.port)}
    by_prefix = {one.task for one in backends if name and one.task.startswith(name)}
    meant = by_name or by_address or by_prefix
    if not meant:
        raise MeshError(f"no backend is {shown(name)}: `meshlb ps` lists them by task and address")
    if len(meant) > 1:
        listed = ", ".join(sorted(meant)[:_LISTED]) + (", …" if len(meant) > _LISTED else "")
        raise MeshError(f"{shown(name)} may be any of {len(meant)} tasks ({listed}): name one")
    return meant.pop()


def _of_task(task: str, table: Table) -> Iterator[tuple[Entry, Backend]]:
    return ((entry, one) for entry in table.entries for one in entry.backends if one.task == task)


def _refuse_last(own: Iterable[tuple[Entry, Backend]], what: str) -> None:
    for entry, backend in own:
        taking = [one for one in entry.backends if one.state is BackendState.UP]
        if entry.policy.locality == "strict":
            taking = [one for one in taking if one.local]
        if backend in taking and all(one.task == backend.task for one in taking):
            raise MeshError(
                f"{what} is the last backend of port {entry.port} that is up: without it clients are turned "
                "away; --force does it all the same"
            )


def _rest(verb: str, own: Iterable[tuple[Entry, Backend]]) -> str:
    """What becomes of connections that it has."""
    ends = [entry.policy.drain for entry, _ in own]
    bounded = verb == "drain" and all(ends)
    return f"those that it has go on{f' for at most {max(ends):g} s' if bounded else ''}"
