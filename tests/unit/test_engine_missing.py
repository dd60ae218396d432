"""What gossip ceases to show is kept for a while: nobody has said that it ended."""

from __future__ import annotations

import pytest
from counting import operations

from meshlb.model import BackendState, Node, Port, Service, Task
from meshlb.swarm.missing import HALF, LOST_STAYS, Missing
from meshlb.swarm.view import View, renamed

UP, SUSPECTED, DRAINING = BackendState.UP, BackendState.SUSPECTED, BackendState.DRAINING
OWN = "a"


def view_of(*tasks: str, heard: str) -> View:
    """Each task is named by its node and a number; all are of one service."""
    found = tuple(Task(name, f"web.{name}", f"10.0.0.{name[1:]}", name[0]) for name in tasks)
    services = (Service("", "web", (Port(80, 8000),), found),) if found else ()
    return View(services, tuple(Node("", f"peer {node}", node) for node in heard), frozenset(heard))


def states(view: View) -> dict[str, BackendState]:
    return {task.id: task.state for service in view.services for task in service.tasks}


@pytest.fixture
def missing() -> Missing:
    found = Missing()
    whole = view_of("a1", "b2", "c3", heard="abc")
    assert found.remember(whole, OWN, 0.0) is whole
    return found


def test_tasks_of_a_node_that_gossip_has_lost_are_suspected(missing: Missing) -> None:
    view = missing.remember(view_of("a1", "b2", heard="ab"), OWN, 1.0)
    assert states(view) == {"a1": UP, "b2": UP, "c3": SUSPECTED}
    assert [peer.address for peer in view.peers] == ["a", "b", "c"]  # the channel goes on watching it
    assert view.services[0].ports == (Port(80, 8000),)


def test_they_are_up_again_as_soon_as_they_are_shown(missing: Missing) -> None:
    missing.remember(view_of("a1", "b2", heard="ab"), OWN, 1.0)
    view = view_of("a1", "b2", "c3", heard="abc")
    assert missing.remember(view, OWN, 9.0) == view


def test_what_is_missed_goes_by_its_nodes_new_name(missing: Missing) -> None:
    missing.remember(view_of("a1", "b2", heard="ab"), OWN, 1.0)
    missing.rename({"c": "C", "b": "B"})
    now = renamed(view_of("a1", "b2", heard="ab"), {"b": "B"})
    view = missing.remember(now, OWN, 2.0)
    assert states(view) == {"a1": UP, "b2": UP, "c3": SUSPECTED}
    assert [task.node for task in view.services[0].tasks] == ["a", "B", "C"]
    assert missing.lost == {"C"}
    back = renamed(view_of("a1", "b2", "c3", heard="abc"), {"b": "B", "c": "C"})
    assert missing.remember(back, OWN, 3.0) == back
    assert not missing.lost


def test_they_are_given_up_after_long(missing: Missing) -> None:
    alone = view_of("a1", heard="a")
    missing.remember(alone, OWN, 1.0)
    assert states(missing.remember(alone, OWN, 0.9 + LOST_STAYS)) == {
        "a1": UP,
        "b2": SUSPECTED,
        "c3": SUSPECTED,
    }
    assert missing.remember(alone, OWN, 1.0 + LOST_STAYS) == alone


def test_a_service_all_of_whose_tasks_are_lost_is_still_there(missing: Missing) -> None:
    for now in (1.0, 1.0 + HALF):
        missing.remember(view_of("b2", heard="abc"), OWN, now)
    view = missing.remember(view_of(heard="a"), OWN, 2.0)
    assert states(view) == {"b2": SUSPECTED}
    assert view.services[0].name == "web"


def test_nodes_are_lost_from_when_gossip_ceases_to_show_them(missing: Missing) -> None:
    assert missing.lost == frozenset()
    missing.remember(view_of("a1", "b2", heard="ab"), OWN, 1.0)
    missing.remember(view_of("a1", heard="a"), OWN, 2.0)
    assert missing.lost == {"b", "c"}
    missing.remember(view_of("a1", "c3", heard="ac"), OWN, 3.0)
    assert missing.lost == {"b"}


def test_lost_nodes_are_given_up_after_long(missing: Missing) -> None:
    alone = view_of("a1", heard="a")
    for now in (1.0, 0.9 + LOST_STAYS):
        missing.remember(alone, OWN, now)
        assert missing.lost == {"b", "c"}
    missing.remember(alone, OWN, 1.0 + LOST_STAYS)
    assert missing.lost == frozenset()


def test_task_that_has_ended_drains_for_a_moment(missing: Missing) -> None:
    ended = view_of("a1", "b2", heard="abc")
    assert states(missing.remember(ended, OWN, 1.0)) == {"a1": UP, "b2": UP, "c3": DRAINING}
    assert missing.remember(ended, OWN, 1.0 + HALF) == ended


def test_own_tasks_are_gone_at_once(missing: Missing) -> None:
    ended = view_of("b2", "c3", heard="abc")
    assert missing.remember(ended, OWN, 1.0) == ended


def test_entries_that_go_one_by_one_cost_nothing(missing: Missing) -> None:
    assert states(missing.remember(view_of("a1", "b2", heard="abc"), OWN, 1.0))["c3"] is DRAINING
    assert states(missing.remember(view_of("a1", "b2", heard="ab"), OWN, 1.1))["c3"] is SUSPECTED


def test_entries_that_come_back_one_by_one_cost_nothing(missing: Missing) -> None:
    missing.remember(view_of("a1", "b2", heard="ab"), OWN, 1.0)
    half = view_of("a1", "b2", heard="abc")
    assert states(missing.remember(half, OWN, 9.0))["c3"] is DRAINING
    assert states(missing.remember(half, OWN, 8.9 + HALF))["c3"] is DRAINING
    assert missing.remember(half, OWN, 9.0 + HALF) == half


def test_a_quiet_view_costs_nothing(missing: Missing) -> None:
    view = view_of("a1", heard="a")
    missing.remember(view, OWN, 1.0)
    missing.remember(view, OWN, 1.0 + LOST_STAYS)
    assert missing.remember(view, OWN, 2.0 + LOST_STAYS) is view


def large_view(services: int, heard: str) -> View:
    """Each has five tasks on each node of a, b and c that is heard."""
    found = tuple(
        Service(
            "",
            f"s{number:04}",
            (Port(1 + number, 80),),
            tuple(
                Task(f"{number}{node}{slot}", f"{slot}", "10.0.0.1", node)
                for node in heard
                for slot in "12345"
            ),
        )
        for number in range(services)
    )
    return View(found, tuple(Node("", node, node) for node in heard), frozenset(heard))


def test_a_lost_node_costs_no_more_for_each_task_when_there_are_many() -> None:
    def cost(services: int) -> tuple[int, int]:
        missing, left = Missing(), large_view(services, "ab")
        missing.remember(large_view(services, "abc"), OWN, 0.0)
        return (
            operations(lambda: missing.remember(left, OWN, 1.0)),
            operations(lambda: missing.remember(left, OWN, 1.25)),
        )

    (few, quiet), (many, still_quiet) = cost(50), cost(500)
    assert many < 15 * few
    assert max(quiet, still_quiet) < 50, "a view that does not change costs nothing"


def test_many_missing_tasks_of_one_service_are_sorted_once() -> None:
    def cost(tasks: int) -> int:
        found = tuple(Task(f"{number}", f"{number:04}", "10.0.0.1", "c") for number in range(tasks))
        whole = View((Service("", "web", (), found),), (), frozenset("ac"))
        missing = Missing()
        missing.remember(whole, OWN, 0.0)
        return operations(lambda: missing.remember(View((), (), frozenset("a")), OWN, 1.0))

    assert cost(500) < 15 * cost(50)
