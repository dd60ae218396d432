"""How far a job is on its way: its tasks run once, to their end (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from meshlb.cluster.convergence import MOST_BARS, PATIENCE, STATES, Bar, Frame, bar, place_of
from meshlb.errors import EngineError

Json = dict[str, Any]
_STATES = len(STATES) + 1  # a job's task is not done when it runs, but when it is complete
_ENDED = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")


class JobWatch:
    """Follows one job from look to look; the times are seconds of any clock."""

    def __init__(self, name: str, started: float) -> None:
        self._name = name
        # When a task ran, one more was complete, or an error came that has stood since then.
        self._since = started
        self._done, self._error = 0, ""

    def frame(self, service: Json, tasks: Iterable[Json], nodes: Collection[str], now: float) -> Frame:
        """What to show of the job now; EngineError when it will not end by itself."""
        own = _of_iteration(service, tasks, nodes)
        job = service["Spec"]["Mode"].get("ReplicatedJob")
        total = int(job.get("TotalCompletions", 1)) if job is not None else len(own)
        if not total and job is None:
            return Frame("job progress: waiting for tasks")
        done = sum(task["Status"]["State"] == "complete" for task in own.values())
        self._check_stuck(own, done, total, now)
        line = f"job progress: {done:{len(str(total))}d} out of {total} complete"
        second = _active(own, total - done, int(job.get("MaxConcurrent") or total)) if job is not None else ""
        over = done >= total
        return Frame(line, _bars(own, total, job is None), "job complete" if over else "", over, second)

    def _check_stuck(self, own: dict[Any, Json], done: int, total: int, now: float) -> None:
        errors = [str(task["Status"]["Err"]) for task in own.values() if task["Status"].get("Err")]
        if errors and not self._error:
            self._since = now
        self._error = " ".join(errors[-1].split()) if errors else self._error  # the next attempt hides it
        runs = any(task["Status"]["State"] == "running" for task in own.values())
        if runs or done > self._done:
            self._since, self._done, self._error = now, done, ""
        if self._error and now - self._since > PATIENCE:
            raise EngineError(
                f"job {self._name} does not get beyond {done} of {total} complete tasks: "
                f"{self._error}; `meshlb service ps --no-trunc {self._name}` tells more, "
                f"`meshlb service rm {self._name}` ends it"
            )


def _of_iteration(service: Json, tasks: Iterable[Json], nodes: Collection[str]) -> dict[Any, Json]:
    """The newest task of each slot or node, of those that the job was last run with."""
    run = ((service.get("JobStatus") or {}).get("JobIteration") or {}).get("Index", 0)
    key = "NodeID" if "GlobalJob" in service["Spec"]["Mode"] else "Slot"
    chosen: dict[Any, Json] = {}
    for task in sorted(tasks, key=lambda task: str(task.get("CreatedAt", ""))):
        gone = task.get("NodeID") and task["NodeID"] not in nodes and task["Status"]["State"] != "complete"
        if (task.get("JobIteration") or {}).get("Index", 0) == run and not gone:
            chosen[task.get(key, 0 if key == "Slot" else "")] = task
    return chosen


def _active(own: dict[Any, Json], left: int, concurrent: int) -> str:
    active = sum(task["Status"]["State"] not in _ENDED for task in own.values())
    wanted = min(left, concurrent)
    return f"active tasks: {active:{len(str(concurrent))}d} out of {wanted} tasks"


def _bars(own: dict[Any, Json], total: int, everywhere: bool) -> tuple[Bar, ...]:
    """docker's, whose slots of jobs begin with 0."""
    if total > MOST_BARS:
        return ()
    if everywhere:
        return tuple(bar(place_of(node), task, _STATES) for node, task in sorted(own.items()))
    labels = [f"{slot + 1:{len(str(total))}d}/{total}" for slot in range(total)]
    return tuple(
        bar(label, own[slot], _STATES) if slot in own else Bar(label, STATES[0])
        for slot, label in enumerate(labels)
    )
