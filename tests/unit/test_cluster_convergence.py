"""A service's way to what was asked of it."""

from typing import Any

import pytest

from meshlb.cluster.convergence import PATIENCE, Bar, Watch, look
from meshlb.errors import EngineError

NODES = {"n1", "n2"}


def _service(replicas: int | None = 2, **more: Any) -> dict[str, Any]:
    mode = {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}}
    return {"ID": "s1", "Spec": {"Name": "web", "Mode": mode}, **more}


def _task(slot: int, state: str, desired: str = "running", node: str = "n1", err: str = "") -> dict[str, Any]:
    return {
        "ID": f"{slot}{state}{err}",
        "Slot": slot,
        "NodeID": node,
        "DesiredState": desired,
        "Status": {"State": state, "Err": err},
    }


def test_bars_stand_for_tasks_that_are_not_there_yet() -> None:
    count, bars = look(_service(3), [_task(4, "starting")], NODES)
    assert (count.running, count.wanted) == (0, 3)
    assert bars == (Bar("1/3", "starting", 8), Bar("2/3"), Bar("3/3"))


def test_the_successor_of_a_failed_task_counts() -> None:
    tasks = [_task(1, "failed", "shutdown", err="boom"), _task(1, "ready", "ready"), _task(2, "running")]
    count, bars = look(_service(2), tasks, NODES)
    assert count.running == 1
    assert bars[0] == Bar("1/2", "ready", 7)


def test_tasks_on_a_node_that_is_down_do_not_count() -> None:
    count, _ = look(_service(1), [_task(1, "running", node="gone")], NODES)
    assert count.running == 0


def test_a_global_service_has_a_task_on_each_node() -> None:
    nothing, _ = look(_service(None), [], NODES)
    assert nothing.wanted is None
    assert not nothing.complete
    tasks = [_task(0, "running", node="n1"), _task(0, "preparing", node="n2")]
    count, bars = look(_service(None), tasks, NODES)
    assert (count.running, count.wanted) == (1, 2)
    assert [bar.label for bar in bars] == ["n1", "n2"]


def test_many_tasks_have_no_bars_and_errors_are_short() -> None:
    assert look(_service(21), [], NODES)[1] == ()
    (bar,) = look(_service(1), [_task(1, "pending", node="", err="x\ny " * 40)], NODES)[1]
    assert len(bar.error) == 75
    assert "\n" not in bar.error


def test_converged_after_being_stable_for_the_monitor_s_time() -> None:
    watch = Watch("web", 0)
    tasks = [_task(1, "running"), _task(2, "running")]
    first = watch.frame(_service(), [_task(1, "running")], NODES, 0)
    assert (first.overall, first.verify) == ("overall progress: 1 out of 2 tasks", "")
    verify = [watch.frame(_service(), tasks, NODES, now) for now in (1, 1.2, 5.5, 6)]
    assert [frame.verify for frame in verify] == [
        "verify: Waiting 5 seconds to verify that tasks are stable...",
        "verify: Waiting 5 seconds to verify that tasks are stable...",
        "verify: Waiting 1 seconds to verify that tasks are stable...",
        "verify: Service web converged",
    ]
    assert [frame.converged for frame in verify] == [False, False, False, True]


def test_a_failure_meanwhile_begins_anew() -> None:
    watch = Watch("web", 0)
    tasks = [_task(1, "running"), _task(2, "running")]
    watch.frame(_service(), tasks, NODES, 0)
    assert watch.frame(_service(), tasks[:1], NODES, 4).verify == "verify: Detected task failure"
    assert not watch.frame(_service(), tasks, NODES, 6).converged
    assert watch.frame(_service(), tasks, NODES, 11).converged


def test_no_tasks_are_wanted() -> None:
    watch = Watch("web", 0)
    watch.frame(_service(0), [], NODES, 0)
    assert watch.frame(_service(0), [], NODES, 5).converged


def test_an_error_that_stands_ends_the_waiting() -> None:
    watch = Watch("web", 0)
    watch.frame(_service(1), [_task(1, "preparing")], NODES, 0)
    # between two attempts the task has no error of its own; what the last one said still holds
    failed = _task(1, "rejected", "shutdown", err="No such image: x:latest")
    watch.frame(_service(1), [failed, _task(1, "ready", "ready")], NODES, 50)  # it was long in coming
    again = failed | {"ID": "again"}
    watch.frame(_service(1), [failed, again, _task(1, "ready", "ready")], NODES, 55)
    watch.frame(_service(1), [_task(1, "preparing")], NODES, 50 + PATIENCE)
    with pytest.raises(EngineError, match=r"does not get beyond 0 of 1 tasks: No such image: x:latest"):
        watch.frame(_service(1), [_task(1, "preparing")], NODES, 50 + PATIENCE + 0.1)


def test_a_single_failure_does_not_end_the_waiting() -> None:
    watch = Watch("web", 0)
    watch.frame(_service(1), [_task(1, "preparing")], NODES, 0)
    failed = _task(1, "failed", "shutdown", err="boom") | {"ID": "failed"}
    for now in (40, 60, 100):
        watch.frame(_service(1), [failed, _task(1, "preparing")], NODES, now)


def test_an_error_whose_task_runs_since_does_not_end_the_waiting() -> None:
    watch = Watch("web", 0)
    watch.frame(_service(2), [_task(1, "preparing"), _task(2, "preparing")], NODES, 0)
    failed = _task(1, "failed", "shutdown", err="boom") | {"ID": "failed"}
    watch.frame(_service(2), [failed, _task(1, "ready"), _task(2, "preparing")], NODES, 3)
    for now in (8, 8 + 2 * PATIENCE):
        watch.frame(_service(2), [failed, _task(1, "running"), _task(2, "preparing")], NODES, now)


def test_a_global_service_does_not_wait_for_a_drained_node() -> None:
    service = {"Spec": {"Name": "web", "Mode": {"Global": {}}}}
    tasks = [_task(1, "running", node="node1"), _task(2, "shutdown", "shutdown", node="node2")]
    count, _ = look(service, tasks, {"node1", "node2"})
    assert (count.running, count.wanted) == (1, 1)


def test_a_failure_of_long_ago_does_not_end_the_waiting() -> None:
    watch = Watch("web", 0)
    tasks = [_task(1, "failed", "shutdown", err="boom"), _task(2, "preparing")]
    for now in (0, PATIENCE + 1):
        assert not watch.frame(_service(2), tasks, NODES, now).converged


def test_getting_better_renews_the_patience() -> None:
    watch = Watch("web", 0)
    failed = _task(1, "pending", node="", err="no suitable node")
    watch.frame(_service(2), [failed], NODES, 0)
    watch.frame(_service(2), [failed, _task(2, "running")], NODES, PATIENCE)
    watch.frame(_service(2), [failed, _task(2, "running")], NODES, 2 * PATIENCE)
    with pytest.raises(EngineError, match="beyond 1 of 2 tasks: no suitable node"):
        watch.frame(_service(2), [failed, _task(2, "running")], NODES, 2 * PATIENCE + 0.1)


def test_slow_is_not_stuck() -> None:
    watch = Watch("web", 0)
    for now in (0, 100, 1000):
        assert not watch.frame(_service(1), [_task(1, "preparing")], NODES, now).converged


def test_a_paused_update_is_an_error() -> None:
    update = {"State": "paused", "Message": "update paused due to failure"}
    with pytest.raises(EngineError, match="the update of service web paused: update paused due to failure"):
        Watch("web", 0).frame(_service(2, UpdateStatus=update), [], NODES, 0)
    update = {"State": "rollback_started"}
    frame = Watch("web", 0).frame(_service(2, UpdateStatus=update), [], NODES, 0)
    assert frame.overall == "overall progress: rolling back update: 0 out of 2 tasks"
