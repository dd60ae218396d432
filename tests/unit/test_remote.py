"""What other nodes tell, or their silence, laid over a snapshot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshlb.model import BackendState, Face, Node, Port, Prepared, Remote, Service, Snapshot, Task
from meshlb.swarm.remote import lay_over

UP, SUSPECTED = BackendState.UP, BackendState.SUSPECTED
DRAINING, DOWN = BackendState.DRAINING, BackendState.DOWN
OWN, ONE, TWO = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def snapshot(*tasks: tuple[str, BackendState]) -> Snapshot:
    """A service with a task on each of these nodes; the tasks' ids count from 0."""
    found = tuple(
        Task(str(i), f"web.{i}", f"10.255.0.{i + 1}", node, state=state)
        for i, (node, state) in enumerate(tasks)
    )
    return Snapshot((Service("s", "web", (Port(80, 8000),), found),), node=OWN)


def states(found: Snapshot) -> dict[str, BackendState]:
    return {task.id: task.state for task in found.services[0].tasks}


def silent(*addresses: str, dead: tuple[str, ...] = ()) -> Remote:
    return Remote({}, frozenset(addresses) | frozenset(dead), frozenset(dead))


def test_nothing_known_changes_nothing() -> None:
    before = snapshot((OWN, UP), (ONE, UP))
    assert lay_over(before, Remote()) is before


def test_the_tasks_of_a_silent_node_are_suspected() -> None:
    found = lay_over(snapshot((OWN, UP), (ONE, UP), (TWO, DRAINING)), silent(ONE, TWO))
    assert states(found) == {"0": UP, "1": SUSPECTED, "2": DRAINING}


def test_a_silent_node_that_managers_list_is_there_though_gossip_shows_it_no_more() -> None:
    here, gone, left = Node("1", "one", ONE), Node("2", "two", TWO), Node("3", "three", "10.0.0.4")
    before = replace(snapshot((OWN, UP)), nodes=(here,), unseen=(gone, left))
    assert lay_over(before, silent(TWO)).nodes == (here, gone)
    assert lay_over(before, silent(ONE)).nodes == (here,)


def test_a_node_is_believed_about_its_own_tasks_alone() -> None:
    before = snapshot((OWN, UP), (ONE, UP), (TWO, UP))
    told = dict.fromkeys("012", DOWN)
    assert states(lay_over(before, Remote({ONE: told}))) == {"0": UP, "1": DOWN, "2": UP}
    assert states(lay_over(before, Remote({OWN: told}))) == {"0": UP, "1": UP, "2": UP}


@pytest.mark.parametrize("here", [UP, DRAINING, DOWN])
@pytest.mark.parametrize("there", [DRAINING, DOWN])
def test_the_worst_that_is_known_counts(here: BackendState, there: BackendState) -> None:
    order = (UP, SUSPECTED, DRAINING, DOWN)
    found = lay_over(snapshot((ONE, here)), Remote({ONE: {"0": there}}, frozenset({ONE})))
    assert states(found) == {"0": max(here, there, key=order.index)}


def test_the_tasks_of_a_dead_node_live_no_more_where_they_are_left_out() -> None:
    living = frozenset("01x")
    before = replace(snapshot((ONE, UP), (TWO, UP)), living=living)
    assert lay_over(before, silent(TWO)).living == living
    assert lay_over(before, silent(dead=(TWO,))).living == frozenset("0x")
    assert lay_over(before, silent(dead=(ONE, TWO))).living == living, "no others are left"


def test_the_tasks_of_a_dead_node_are_left_out_where_others_are_left() -> None:
    assert states(lay_over(snapshot((ONE, UP), (TWO, UP)), silent(dead=(TWO,)))) == {"0": UP}
    assert states(lay_over(snapshot((ONE, UP), (TWO, UP)), silent(ONE, dead=(TWO,)))) == {"0": SUSPECTED}
    assert states(lay_over(snapshot((ONE, DRAINING), (TWO, UP)), silent(dead=(TWO,)))) == {"0": DRAINING}


def test_never_all_tasks_of_a_service_are_left_out() -> None:
    all_dead = silent(dead=(ONE, TWO))
    assert states(lay_over(snapshot((ONE, UP), (TWO, UP)), all_dead)) == {"0": SUSPECTED, "1": SUSPECTED}
    dead_beside_dead = lay_over(snapshot((OWN, DOWN), (TWO, UP)), all_dead)
    assert states(dead_beside_dead) == {"0": DOWN, "1": SUSPECTED}


def test_ones_own_tasks_are_never_suspected() -> None:
    assert states(lay_over(snapshot((OWN, UP), ("", UP)), silent(dead=(OWN, "")))) == {"0": UP, "1": UP}


def prepared(*hosts: str) -> Prepared:
    return Prepared(frozenset({"1"}), frozenset(hosts), frozenset({"10.255.0.0/24", "172.18.0.0/16"}))


@pytest.mark.parametrize(
    ("told_by", "face", "found"),
    [
        (ONE, Face("10.255.0.2"), [False, True]),
        (TWO, Face("10.255.0.2"), [False, False]),  # another node runs the task
        (ONE, Face("10.255.0.9"), [False, False]),  # there is no way to this node
        (ONE, Face(""), [False, False]),  # this node has none
        (ONE, Face("10.255.0.2", 7), [False, False]),  # it has one, but in a namespace that was replaced
    ],
)
def test_a_task_is_prepared_when_its_own_node_says_so_of_this_one(
    told_by: str, face: Face, found: list[bool]
) -> None:
    remote = Remote(prepared={told_by: prepared("10.255.0.2", "10.255.0.3")}, face=face)
    laid = lay_over(snapshot((OWN, UP), (ONE, UP)), remote)
    assert [task.prepared for task in laid.services[0].tasks] == found


def test_clients_that_a_task_could_take_for_itself_are_masked() -> None:
    laid = lay_over(snapshot((ONE, UP)), Remote(prepared={ONE: prepared("10.255.0.2")}))
    assert {"10.255.0.0/24", "172.18.0.0/16", "127.0.0.0/8"} <= set(laid.masked)
    assert lay_over(snapshot((ONE, UP)), silent(ONE)).masked == ()
