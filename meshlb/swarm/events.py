"""What local containers do, as marks on tasks: ahead of gossip, which tells it up to two seconds later. Pure.

    (no mark: up) ──kill by a signal that ends──► draining ──die, SIGKILL, destroy──► down
          │  ▲──────── start, or 60 s without a die ──┘
          ├──health_status: unhealthy──► draining ──health_status: healthy──► (no mark)
          └──die, SIGKILL, destroy──► down ──start──► (no mark)

A mark never outlives its task: `prune` drops the marks of tasks that gossip does not show. Gossip shows a
task until its container has died. That one is about to be stopped is known some three seconds before its
first signal, but to managers alone (`lists.stopping`); the mark is what every node knows of its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote

from meshlb.model import BackendState

# Only what is used below: a health check by command alone makes three exec_* events every few seconds.
_FILTERS = {
    "type": ["container", "service", "node", "network"],
    "event": ["start", "kill", "die", "destroy", "health_status", "create", "update", "remove"],
}
PATH = "/events?filters=" + quote(json.dumps(_FILTERS))
CONTAINERS_PATH = "/containers/json?all=1&filters=" + quote(
    json.dumps({"label": ["com.docker.swarm.task.id"]})
)

ENDING_SIGNALS = frozenset({"2", "3", "15"})  # INT, QUIT, TERM: what images stop by. HUP and USR reload
SIGKILL = "9"
PATIENCE = 60.0  # seconds that a signal may be ignored before the task counts as up again


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `task` is set for a Swarm task's container and empty for what managers report."""

    action: str
    task: str = ""
    signal: str = ""


def parse_event(line: bytes) -> Event | None:
    """The event of one line of the stream, None when it is no business of the mesh's.

    Only Type, Action and Actor are read; newer engines (API 1.52) have dropped the older fields.
    """
    try:
        event = json.loads(line.lstrip(b"\x1e"))
        kind, action, attributes = event["Type"], event["Action"], event["Actor"]["Attributes"]
        if kind != "container":
            return Event(f"{kind} {action}")
        task = attributes.get("com.docker.swarm.task.id")
        signal = str(attributes.get("signal", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Event(action, task, signal) if task and isinstance(task, str) and isinstance(action, str) else None


def parse_containers(found: object) -> dict[str, BackendState]:
    """The states of the local tasks that are not up, from `/containers/json`."""
    states = {}
    for container in found if isinstance(found, list) else ():
        labels = container.get("Labels") if isinstance(container, dict) else None
        task = labels.get("com.docker.swarm.task.id") if isinstance(labels, dict) else None
        if not isinstance(task, str):
            continue
        if container.get("State") in ("exited", "dead", "removing"):
            states[task] = BackendState.DOWN
        elif isinstance(status := container.get("Status"), str) and "(unhealthy)" in status:
            states[task] = BackendState.DRAINING
    return states


@dataclass(frozen=True, slots=True)
class _Mark:
    state: BackendState
    cause: str  # "signal", "health" or "end"
    since: float


class Marks:
    """The marks of the local tasks. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._marks: dict[str, _Mark] = {}

    def states(self) -> Mapping[str, BackendState]:
        """The state of every marked task."""
        return MappingProxyType({task: mark.state for task, mark in self._marks.items()})

    def replace(self, states: Mapping[str, BackendState], now: float) -> None:
        """Begin anew from a list of containers; a signal that was seen before still counts."""
        signalled = {task: mark for task, mark in self._marks.items() if mark.cause == "signal"}
        listed = {
            task: _Mark(state, "end" if state is BackendState.DOWN else "health", now)
            for task, state in states.items()
        }
        self._marks = signalled | listed

    def apply(self, event: Event, now: float) -> None:
        """Take one container event into account."""
        before = self._marks.get(event.task)
        mark = _after(event, before, now)
        if mark is None:
            self._marks.pop(event.task, None)
        else:
            self._marks[event.task] = mark

    def prune(self, shown: Collection[str], now: float) -> None:
        """Drop the marks of tasks that are not shown any more, and of signals that were ignored."""
        self._marks = {
            task: mark
            for task, mark in self._marks.items()
            if task in shown and not (mark.cause == "signal" and now - mark.since >= PATIENCE)
        }


def _after(event: Event, before: _Mark | None, now: float) -> _Mark | None:
    """The mark that follows `before` on an event. The end outweighs health, health outweighs a signal."""
    mark = _said_by(event, now)
    if event.action == "start":
        return None
    if mark is None:
        recovered = (
            event.action == "health_status: healthy" and before is not None and before.cause == "health"
        )
        return None if recovered else before
    order = ("signal", "health", "end")
    if before and order.index(before.cause) > order.index(mark.cause):
        return before
    return mark


def _said_by(event: Event, now: float) -> _Mark | None:
    if event.action in ("die", "destroy") or (event.action == "kill" and event.signal == SIGKILL):
        return _Mark(BackendState.DOWN, "end", now)
    if event.action == "kill" and event.signal in ENDING_SIGNALS:
        return _Mark(BackendState.DRAINING, "signal", now)
    if event.action == "health_status: unhealthy":
        return _Mark(BackendState.DRAINING, "health", now)
    return None
