"""How far a job is, in docker's words."""

from __future__ import annotations

from typing import Any

import pytest

from meshlb.cli.progress import screen
from meshlb.cluster.convergence import PATIENCE, Frame
from meshlb.cluster.job import JobWatch
from meshlb.errors import EngineError

Json = dict[str, Any]
NODES = {"nodeone12345678", "nodetwo12345678"}


def job(total: int = 3, concurrent: int = 2, iteration: int = 7) -> Json:
    mode = {"ReplicatedJob": {"TotalCompletions": total, "MaxConcurrent": concurrent}}
    return {"Spec": {"Mode": mode}, "JobStatus": {"JobIteration": {"Index": iteration}}}


def task(slot: int, state: str, created: int = 1, iteration: int = 7, err: str = "") -> Json:
    found: Json = {"Status": {"State": state, "Err": err}, "CreatedAt": f"2026-11-25T00:00:{created:02}Z"}
    found |= {"NodeID": "nodeone12345678", "JobIteration": {"Index": iteration}}
    return found | ({"Slot": slot} if slot else {})  # JSON leaves 0 out


def text(frame: Frame) -> list[str]:
    return [line.rstrip() for line in screen(frame, 20, 40)]


def test_a_replicated_job_from_its_beginning_to_its_end() -> None:
    watch = JobWatch("j", 0)
    shown = [
        text(watch.frame(job(), tasks, NODES, 0))
        for tasks in (
            [],
            [task(0, "running"), task(1, "preparing")],
            [task(0, "complete"), task(1, "complete"), task(2, "running")],
            [task(slot, "complete") for slot in range(3)],
        )
    ]
    first = "job progress: {} out of 3"
    assert shown == [
        [first.format(0)[:19], "active tasks: 0 out"[:19], "1/3: new", "2/3: new", "3/3: new"],
        [first.format(0)[:19], "active tasks: 2 out"[:19], "1/3: running", "2/3: preparing", "3/3: new"],
        [first.format(2)[:19], "active tasks: 1 out"[:19], "1/3: complete", "2/3: complete", "3/3: running"],
        [
            first.format(3)[:19],
            "active tasks: 0 out"[:19],
            *(f"{n}/3: complete" for n in (1, 2, 3)),
            "job complete",
        ],
    ]


def test_active_tasks_are_out_of_those_that_may_run_at_once() -> None:
    found = JobWatch("j", 0).frame(job(12, 10), [task(0, "complete"), task(1, "starting")], NODES, 0)
    assert (found.overall, found.second) == (
        "job progress:  1 out of 12 complete",
        "active tasks:  1 out of 10 tasks",
    )
    assert [bar.label for bar in found.bars][:1] == [" 1/12"]
    assert JobWatch("j", 0).frame(job(21), [], NODES, 0).bars == ()


def test_what_ran_earlier_and_what_failed_does_not_count() -> None:
    tasks = [task(0, "complete", iteration=6), task(1, "running", 9), task(1, "failed", 2, err="boom")]
    found = JobWatch("j", 0).frame(job(), tasks, NODES, 0)
    assert found.overall == "job progress: 0 out of 3 complete"
    assert [(bar.state, bar.error) for bar in found.bars] == [("new", ""), ("running", ""), ("new", "")]


def test_a_global_job() -> None:
    service = job() | {"Spec": {"Mode": {"GlobalJob": {}}}}
    watch = JobWatch("j", 0)
    assert watch.frame(service, [], NODES, 0).overall == "job progress: waiting for tasks"
    tasks = [task(0, "complete"), task(0, "running") | {"NodeID": "nodetwo12345678"}]
    gone = task(0, "running") | {"NodeID": "nodegone"}
    found = watch.frame(service, [*tasks, gone], NODES, 0)
    assert (found.overall, found.second) == ("job progress: 1 out of 2 complete", "")
    assert [bar.label for bar in found.bars] == ["nodeone12345", "nodetwo12345"]
    assert [bar.done < bar.of for bar in found.bars] == [False, True]
    assert watch.frame(service, tasks[:1], NODES, 0).converged


def test_a_job_that_cannot_go_on_is_an_error_but_one_that_runs_for_long_is_none() -> None:
    watch = JobWatch("j", 0)
    failed = task(0, "failed", err="exec:\n  no such file")
    watch.frame(job(1), [failed], NODES, 0.5)
    watch.frame(job(1), [failed, task(0, "preparing", 2)], NODES, PATIENCE)
    with pytest.raises(
        EngineError, match="job j does not get beyond 0 of 1 complete tasks: exec: no such file; "
    ):
        watch.frame(job(1), [failed], NODES, PATIENCE + 1)
    JobWatch("j", 0).frame(job(1), [task(0, "preparing")], NODES, 10 * PATIENCE)
    watch = JobWatch("j", 0)
    for now in range(0, 1000, 100):
        watch.frame(job(2), [failed, task(1, "running")], NODES, now)
