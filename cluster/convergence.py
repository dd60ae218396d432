"""How far a service is on its way to what was asked of it (pure).

tasks run?  no  ──► waiting ──────────────┐ an error stands, and nothing got better for PATIENCE
    │                                     ▼
   yes ─► stable for `monitor` seconds ─► converged            stuck: told to the user as an error
    ▲            │
    └─ a task fails
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from meshlb.errors import EngineError

Json = dict[str, Any]

STATES = ("new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running")
_ORDER = {
    state: place for place, state in enumerate((*STATES, "complete", "shutdown", "failed", "rejected"), 1)
}
PATIENCE = 30.0  # seconds; a task that fails is restarted every 5, so this is several failures in a row
MOST_BARS = 20
_LONGEST_ERROR = 75


@dataclass(frozen=True, slots=True)
class Bar:
    """One task's progress: `done` of so many states, or its error."""

    label: str
    state: str = ""
    done: int = 0
    error: str = ""
    of: int = len(STATES)


@dataclass(frozen=True, slots=True)
class Frame:
    """What to show now, in docker's words; `verify` is empty while tasks are missing, `second` is a job's."""

    overall: str
    bars: tuple[Bar, ...] = ()
    verify: str = ""
    converged: bool = False
    second: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    """How many tasks run, and how many should (None: not known yet)."""

    running: int
    wanted: int | None

    @property
    def complete(self) -> bool:
        """Whether all tasks run that should."""
        return self.running == self.wanted


def look(service: Json, tasks: Iterable[Json], nodes: Collection[str]) -> tuple[Count, tuple[Bar, ...]]:
    """The counts and the bars of a service; `nodes` are the ids of the nodes that are up."""
    mode = service["Spec"]["Mode"]
    if "Global" in mode:
        found = _by_place(tasks, nodes, "NodeID")
        # What is shut down without an error is on a node that has been drained.
        current = {node: task for node, task in found.items() if _alive(task) or task["Status"].get("Err")}
        wanted = len(current) or None
        labels = {place: place_of(place) for place in current}
    else:
        current = _by_place(tasks, nodes, "Slot")
        wanted = int(mode["Replicated"].get("Replicas", 1))
        labels = {place: f"{number}/{wanted}" for number, place in enumerate(sorted(current), 1)}
    running = sum(_alive(task) and task["Status"]["State"] == "running" for task in current.values())
    bars = [bar(labels[place], current[place]) for place in sorted(current)]
    if isinstance(wanted, int) and "Replicated" in mode:
        bars = (bars + [Bar(f"{number}/{wanted}") for number in range(len(bars) + 1, wanted + 1)])[:wanted]
    return Count(running, wanted), tuple(bars) if len(bars) <= MOST_BARS else ()


def _by_place(tasks: Iterable[Json], nodes: Collection[str], key: str) -> dict[Any, Json]:
    """One task for each slot or node: the one that is to live longest, and of those the least advanced."""
    chosen: dict[Any, Json] = {}
    for task in tasks:
        node = task.get("NodeID", "")
        if task["Status"]["State"] not in _ORDER or task["DesiredState"] not in _ORDER:
            continue
        if node and node not in nodes:
            continue
        place = task.get(key, "")
        if place not in chosen or _rank(task) < _rank(chosen[place]):
            chosen[place] = task
    return chosen


def _rank(task: Json) -> tuple[int, int]:
    return _ORDER[task["DesiredState"]], _ORDER[task["Status"]["State"]]


def _alive(task: Json) -> bool:
    return _ORDER.get(task["DesiredState"], 0) <= _ORDER["running"]


def _ended(tasks: Iterable[Json]) -> frozenset[str]:
    return frozenset(task["ID"] for task in tasks if not _alive(task))


def place_of(node: object) -> str:
    """How docker names a node's task."""
    return str(node)[:12]


def bar(label: str, task: Json, states: int = len(STATES)) -> Bar:
    """A task's progress towards the last of so many states."""
    state = task["Status"]["State"]
    error = _one_line(task["Status"].get("Err", ""))
    return Bar(label, state, min(_ORDER.get(state, 0), states), error, states)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_ERROR else line[: _LONGEST_ERROR - 1] + "…"


def overall(count: Count, rollback: bool) -> str:
    """docker's first line."""
    if count.wanted is None:
        return "overall progress: waiting for new tasks"
    way = "rolling back update: " if rollback else ""
    return f"overall progress: {way}{count.running} out of {count.wanted} tasks"


class Watch:
    """Follows one service from look to look; the times are seconds of any clock."""

    def __init__(self, name: str, started: float) -> None:
        self._name = name
        self._since = started  # when it got better, or an error came that has stood since then
        self._best = 0
        self._converged_at: float | None = None
        self._error = ""
        self._failed: set[str] = set()  # ids of tasks, since the error stands
        self._old_failures: frozenset[str] | None = None  # from before anybody watched

    def frame(self, service: Json, tasks: Iterable[Json], nodes: Collection[str], now: float) -> Frame:
        """What to show of the service now; EngineError when it will not get there by itself."""
        update = service.get("UpdateStatus") or {}
        rollback = str(update.get("State", "")).startswith("rollback")
        self._check_paused(update)
        tasks = list(tasks)
        count, bars = look(service, tasks, nodes)
        line = overall(count, rollback)
        if count.complete:
            return self._stable(service, line, bars, now)
        self._check_stuck(count, tasks, now)
        failed = self._converged_at is not None
        self._converged_at = None
        return Frame(line, bars, "verify: Detected task failure" if failed else "")

    def _stable(self, service: Json, line: str, bars: tuple[Bar, ...], now: float) -> Frame:
        monitor = ((service["Spec"].get("UpdateConfig") or {}).get("Monitor") or 5 * 10**9) / 10**9
        if self._converged_at is None:
            self._converged_at = now
        left = monitor - (now - self._converged_at)
        if left <= 0 and (service.get("UpdateStatus") or {}).get("State") not in (
            "updating",
            "rollback_started",
        ):
            return Frame(line, bars, f"verify: Service {self._name} converged", converged=True)
        seconds = max(math.ceil(left), 1)
        return Frame(line, bars, f"verify: Waiting {seconds} seconds to verify that tasks are stable...")

    def _check_paused(self, update: Json) -> None:
        if update.get("State") in ("paused", "rollback_paused"):
            what = "rollback" if "rollback" in update["State"] else "update"
            raise EngineError(
                f"the {what} of service {self._name} paused: {update.get('Message', '')}: "
                f"see `meshlb service ps {self._name}`, mend it and `meshlb service update` again"
            )

    def _check_stuck(self, count: Count, tasks: list[Json], now: float) -> None:
        if count.running > self._best:
            self._best, self._since, self._error = count.running, now, ""
            self._old_failures = _ended(tasks)  # others run in their places
        failures = self._failures(tasks)
        if failures and not self._error:
            self._since, self._failed = now, set()
        self._error = _one_line(failures[-1]["Status"]["Err"]) if failures else self._error
        self._failed |= {task["ID"] for task in failures if not _alive(task)}
        # A single task that has failed says nothing yet of those that take its place.
        stands = len(self._failed) > 1 or any(_alive(task) for task in failures)
        if self._error and stands and now - self._since > PATIENCE:
            raise EngineError(
                f"service {self._name} does not get beyond {count.running} of {count.wanted} tasks: "
                f"{self._error}; Swarm goes on trying in the background: "
                f"`meshlb service ps --no-trunc {self._name}` tells more, "
                f"`meshlb service rm {self._name}` ends it"
            )

    def _failures(self, tasks: list[Json]) -> list[Json]:
        """The tasks that have failed under our eyes, the last one last; the bars show their successors."""
        if self._old_failures is None:
            self._old_failures = _ended(tasks)
        found = (task for task in tasks if task["Status"].get("Err") and task["ID"] not in self._old_failures)
        return sorted(found, key=lambda task: str(task["Status"].get("Timestamp", "")))
