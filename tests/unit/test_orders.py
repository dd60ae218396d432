"""What an operator orders of backends: how it is laid over snapshots, and when it is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshlb.errors import MeshError
from meshlb.model import BackendState, Port, Service, Snapshot, Task
from meshlb.orders import MISSING, MOST, Orders
from meshlb.table import build

NODE = "192.0.2.1"
ONE = Task("abc1", "web.1.abc1", "10.0.0.1", NODE)
TWO = Task("abd2", "web.2.abd2", "10.0.0.2", "192.0.2.2")


def snapshot(*tasks: Task, labels: tuple[tuple[str, str], ...] = ()) -> Snapshot:
    service = Service("s", "web", (Port(80, 8000), Port(443, 8443)), tasks, labels)
    return Snapshot((service,), node=NODE)


BOTH = snapshot(ONE, TWO)


def states(orders: Orders, found: Snapshot = BOTH, now: float = 0.0) -> list[str]:
    return [task.state.value for task in orders.lay_over(found, now).services[0].tasks]


def give(orders: Orders, verb: str, name: str, found: Snapshot = BOTH, force: bool = False) -> str:
    return orders.give(verb, name, force, build(orders.lay_over(found, 0.0)), 0.0)


@pytest.mark.parametrize("name", ["web.1", "web.1.abc1", "abc1", "abc", "10.0.0.1:8000", "10.0.0.1:8443"])
def test_a_backend_is_named_by_task_id_or_address(name: str) -> None:
    orders = Orders()
    told = give(orders, "pause", name)
    assert told == (
        "web.1.abc1 (10.0.0.1:8000, 10.0.0.1:8443) is paused: no new connections from this node; "
        "those that it has go on"
    )
    assert states(orders) == ["paused", "up"]


@pytest.mark.parametrize("labels", [(), (("meshlb.drain", "30s"),)])
def test_drain_says_how_long_connections_go_on(labels: tuple[tuple[str, str], ...]) -> None:
    told = give(Orders(), "drain", "web.1", snapshot(ONE, TWO, labels=labels))
    assert told.endswith("go on for at most 30 s" if labels else "go on")


def test_undrain_ends_it() -> None:
    orders = Orders()
    give(orders, "drain", "web.1")
    assert give(orders, "undrain", "web.1").endswith(" takes new connections again")
    assert states(orders) == ["up", "up"]
    assert give(orders, "undrain", "web.1").endswith(" was neither drained nor paused")


@pytest.mark.parametrize(
    ("verb", "name", "words"),
    [
        ("drain", "web.3", "no backend is web.3: `meshlb ps` lists them"),
        ("drain", "", "no backend is : `meshlb ps` lists them"),
        ("drain", "ab", r"ab may be any of 2 tasks \(abc1, abd2\): name one"),
        ("stop", "web.1", "stop is not one of drain, pause, undrain"),
    ],
)
def test_what_cannot_be_meant_is_refused(verb: str, name: str, words: str) -> None:
    with pytest.raises(MeshError, match=words):
        give(Orders(), verb, name)


def test_the_last_backend_of_a_port_is_refused_unless_forced() -> None:
    orders = Orders()
    give(orders, "drain", "web.1")
    with pytest.raises(
        MeshError, match=r"web.2.abd2 .* is the last backend of port 80/tcp that is up: .*--force"
    ):
        give(orders, "pause", "web.2")
    give(orders, "pause", "web.2", force=True)
    assert states(orders) == ["drained", "paused"]
    give(orders, "pause", "web.1")  # takes none as it is


def test_where_tasks_of_other_nodes_take_none_the_last_of_this_node_is_the_last() -> None:
    found = snapshot(ONE, TWO, labels=(("meshlb.locality", "strict"),))
    give(Orders(), "drain", "web.2", found)
    with pytest.raises(MeshError, match="the last backend"):
        give(Orders(), "drain", "web.1", found)


def test_a_task_that_is_dead_stays_dead_and_one_that_ends_stays_as_ordered() -> None:
    orders = Orders()
    give(orders, "pause", "web.1")
    for state, shown in ((BackendState.DOWN, "down"), (BackendState.DRAINING, "paused")):
        assert states(orders, snapshot(replace(ONE, state=state), TWO)) == [shown, "up"]


def test_an_order_outlives_a_task_that_is_missing_for_a_while() -> None:
    orders = Orders()
    give(orders, "pause", "web.1")
    assert states(orders, snapshot(TWO), 1.0) == ["up"]
    assert states(orders, now=MISSING) == ["paused", "up"]
    assert states(orders, snapshot(TWO), 2 * MISSING + 1.0) == ["up"]
    assert states(orders, now=2 * MISSING + 2.0) == ["up", "up"]


def test_orders_are_few() -> None:
    orders = Orders()
    tasks = [Task(f"t{number}", f"web.{number}", "10.0.0.1") for number in range(MOST + 2)]
    for task in tasks[:MOST]:
        give(orders, "pause", task.id, snapshot(*tasks))
    with pytest.raises(MeshError, match=f"{MOST} backends are drained or paused already"):
        give(orders, "pause", tasks[MOST].id, snapshot(*tasks))


def test_the_agent_that_takes_over_knows_them() -> None:
    orders, heir = Orders(), Orders()
    give(orders, "pause", "web.1")
    heir.adopt(orders.told(), 0.0)
    assert states(heir) == ["paused", "up"]


def test_what_is_adopted_takes_the_place_of_what_was_known() -> None:
    orders = Orders()
    orders.adopt({"abc1": "paused"}, 0.0)
    orders.adopt(None, 0.0)  # an agent that tells none, of an older release
    assert orders.told() == {"abc1": "paused"}
    orders.adopt({"abd2": "drained"}, 0.0)
    assert orders.told() == {"abd2": "drained"}


@pytest.mark.parametrize("told", [None, [], "x", {"abc1": "up"}, {"abc1": ["paused"]}, {"a" * 500: "paused"}])
def test_what_is_no_order_is_left_out(told: object) -> None:
    orders = Orders()
    orders.adopt(told, 0.0)
    assert orders.told() == {}
