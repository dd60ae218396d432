"""Who is believed about what, and how much anyone may say."""

from __future__ import annotations

import pytest

from meshlb.model import BackendState, Desired, Node, Prepared
from meshlb.peers.allowance import (
    BYTES,
    MESSAGES,
    MESSAGES_PER_SECOND,
    PAUSE,
    SENT_PER_SECOND,
    Allowance,
    pause_after,
)
from meshlb.peers.beliefs import Beliefs
from meshlb.peers.identity import MANAGER, WORKER, IdentityError, Peer
from meshlb.peers.message import Message, MessageError, Version

DRAINING, DOWN = BackendState.DRAINING, BackendState.DOWN
ONE, TWO = "10.0.0.1", "10.0.0.2"
WORKS, MANAGES = Peer("w", WORKER, "c"), Peer("m", MANAGER, "c")


def tasks(count: int, **states: BackendState) -> Message:
    return Message(Version("epoch", count), None, states)


def desired(count: int) -> Message:
    return Message(Version("epoch", count), Desired(problems=(str(count),)))


def test_a_node_is_believed_about_its_own_tasks() -> None:
    beliefs = Beliefs(10)
    beliefs.hosts = {"a": ONE, "b": TWO}
    beliefs.hear(ONE, WORKS, tasks(1, a=DRAINING, b=DOWN, c=DOWN), 0)
    assert beliefs.tasks(0) == {ONE: {"a": DRAINING, "c": DOWN}}
    assert (beliefs.heard, beliefs.foreign) == (1, 1)
    beliefs.hear(ONE, WORKS, tasks(2), 0)
    assert beliefs.tasks(0) == {}


def test_a_task_that_was_told_to_be_dead_stays_so_while_gossip_shows_it() -> None:
    beliefs = Beliefs(10)
    beliefs.hosts = {"a": ONE, "b": ONE}
    beliefs.hear(ONE, WORKS, tasks(1, a=DOWN, b=DRAINING), 0)
    beliefs.hear(ONE, WORKS, tasks(2), 0)
    assert beliefs.tasks(0) == {ONE: {"a": DOWN}}
    beliefs.hosts = {"b": ONE}
    beliefs.hear(ONE, WORKS, tasks(3), 0)
    assert beliefs.tasks(0) == {}


def test_only_managers_are_believed_about_services() -> None:
    beliefs = Beliefs(10)
    assert beliefs.hear(ONE, MANAGES, desired(1), 0) == Desired(problems=("1",))
    with pytest.raises(MessageError, match="is not a manager"):
        beliefs.hear(TWO, WORKS, desired(1), 0)
    assert beliefs.heard == 1


def behind(count: int) -> Message:
    return Message(Version("epoch", count), Desired(problems=(str(count),), old=True))


OTHER = Peer("n", MANAGER, "c")


def test_a_manager_that_is_behind_is_not_heard_beside_one_that_is_not() -> None:
    beliefs = Beliefs(10)
    assert beliefs.hear(ONE, MANAGES, desired(1), 0)
    assert beliefs.hear(TWO, OTHER, behind(1), 0) is None
    assert (beliefs.heard, beliefs.stale) == (1, 1)
    assert beliefs.hear(TWO, OTHER, desired(2), 0)
    assert beliefs.hear(ONE, MANAGES, behind(2), 0) is None


def test_a_manager_that_is_behind_is_better_than_none() -> None:
    beliefs = Beliefs(10)
    assert beliefs.hear(ONE, MANAGES, behind(1), 0) == behind(1).desired
    assert beliefs.hear(TWO, OTHER, desired(1), 0)
    assert beliefs.hear(TWO, OTHER, behind(2), 0) == behind(2).desired, "nobody is left who follows"
    assert beliefs.hear(TWO, OTHER, desired(3), 0)
    assert beliefs.hear(ONE, MANAGES, behind(4), 20) == behind(4).desired, "nor is anybody there who did"


def test_who_is_no_manager_any_more_follows_none() -> None:
    beliefs = Beliefs(10)
    assert beliefs.hear(ONE, MANAGES, desired(1), 0)
    beliefs.hear(ONE, Peer("m", WORKER, "c"), tasks(1), 0)
    assert beliefs.hear(TWO, OTHER, behind(1), 0)


def test_who_has_another_certificate_than_the_node_at_that_address_is_not_heard() -> None:
    beliefs = Beliefs(10)
    beliefs.nodes = (Node("w", "one", ONE), Node("old", "two", TWO), Node("x", "two", TWO))
    beliefs.hear(ONE, WORKS, tasks(1, a=DOWN), 0)
    with pytest.raises(IdentityError, match=r"the node w is not the one that managers list at 10\.0\.0\.2"):
        beliefs.hear(TWO, WORKS, tasks(2, a=DOWN), 0)
    beliefs.hear("10.0.0.9", WORKS, tasks(1), 0)  # of an address that nobody lists nothing is known
    assert beliefs.tasks(0) == {ONE: {"a": DOWN}}


def test_states_that_are_replayed_are_not_taken() -> None:
    beliefs = Beliefs(10)
    beliefs.hear(ONE, MANAGES, tasks(2, a=DOWN), 0)
    assert beliefs.hear(ONE, MANAGES, desired(1), 0), "each part has its own order"
    beliefs.hear(ONE, MANAGES, tasks(1, b=DOWN), 0)
    assert beliefs.hear(ONE, MANAGES, desired(1), 0) is None
    assert beliefs.tasks(0) == {ONE: {"a": DOWN}}
    assert (beliefs.heard, beliefs.stale) == (2, 2)


def test_states_end_some_time_after_the_connection_and_are_there_again_with_it() -> None:
    beliefs = Beliefs(10)
    beliefs.hear(ONE, WORKS, tasks(1, a=DOWN), 0)
    beliefs.connected(ONE, 5)
    assert beliefs.tasks(15) == {ONE: {"a": DOWN}}
    assert beliefs.tasks(15.1) == {}
    beliefs.hear(ONE, WORKS, tasks(1, a=DOWN), 20)  # connected again: no news, and still so
    assert beliefs.tasks(20) == {ONE: {"a": DOWN}}


def test_another_swarm_is_another_world() -> None:
    beliefs = Beliefs(10)
    beliefs.nodes = (Node("x", "one", ONE),)
    beliefs.hear(TWO, WORKS, tasks(1, a=DOWN), 0)
    beliefs.forget()
    assert beliefs.tasks(0) == {}
    beliefs.hear(ONE, WORKS, tasks(1), 0)


def test_who_comes_back_to_a_swarm_hears_again_what_has_not_changed_since() -> None:
    beliefs = Beliefs(10)
    beliefs.hear(TWO, WORKS, tasks(1, a=DOWN), 0)
    beliefs.forget()
    beliefs.hear(TWO, WORKS, tasks(1, a=DOWN), 0)
    assert beliefs.tasks(0) == {TWO: {"a": DOWN}}


def test_of_services_the_same_can_be_heard_again_once_it_was_forgotten() -> None:
    beliefs = Beliefs(10)
    beliefs.hear(ONE, MANAGES, tasks(1, a=DOWN), 0)
    beliefs.hear(ONE, MANAGES, desired(1), 0)
    beliefs.forget_desired()
    assert beliefs.hear(ONE, MANAGES, desired(1), 0) == Desired(problems=("1",))
    beliefs.hear(ONE, MANAGES, tasks(1), 0)
    assert beliefs.tasks(0) == {ONE: {"a": DOWN}}


def test_what_an_agent_sends_is_always_allowed() -> None:
    for size in (10, 100_000, 4 << 20):
        allowance, now = Allowance(0.0), 0.0
        for _ in range(1000):
            assert allowance.take(size, now)
            now += pause_after(size)


def test_a_flood_is_not() -> None:
    many = Allowance(0.0)
    assert [many.take(0, 0.0) for _ in range(int(MESSAGES) + 1)] == [True] * int(MESSAGES) + [False]
    much = Allowance(0.0)
    assert much.take(int(BYTES), 0.0)
    assert not much.take(int(BYTES), 1.0)


def test_senders_leave_more_room_than_receivers_need() -> None:
    assert 2 / PAUSE < MESSAGES_PER_SECOND
    assert pause_after(int(SENT_PER_SECOND) * 3) == 3


def told(count: int, data: str | None, **states: BackendState) -> Message:
    return Message(Version("epoch", count), None, states, None, data)


def test_a_node_is_known_by_the_address_for_its_data() -> None:
    beliefs = Beliefs(10)
    beliefs.hosts = {"a": "172.16.0.1"}  # as gossip has it, before anybody knows whose that is
    beliefs.addresses = (ONE, TWO)
    beliefs.hear(ONE, WORKS, told(1, "172.16.0.1", a=DOWN), 0)
    assert beliefs.paths() == {"172.16.0.1": ONE}
    assert (beliefs.tasks(0), beliefs.foreign) == ({ONE: {"a": DOWN}}, 0)
    beliefs.tasks(100)
    assert beliefs.paths() == {"172.16.0.1": ONE}, "it outlives the connection"
    beliefs.addresses = (TWO,)
    assert beliefs.paths() == {}


@pytest.mark.parametrize("data", [TWO, "10.0.0.3", "172.16.0.2"])
def test_nobody_takes_anothers_address_for_its_data(data: str) -> None:
    beliefs = Beliefs(10)
    beliefs.hosts = {"a": data}
    beliefs.addresses, beliefs.nodes = (ONE, TWO), (Node("x", "three", "10.0.0.3"),)
    beliefs.hear(TWO, OTHER, told(1, "172.16.0.2"), 0)
    beliefs.hear(ONE, WORKS, told(1, data, a=DOWN), 0)
    assert ONE not in beliefs.paths().values()
    assert (beliefs.tasks(0), beliefs.foreign) == ({}, 1)


def test_what_a_node_has_prepared_outlives_its_agent() -> None:
    before, after = Prepared(frozenset({"a"})), Prepared(frozenset({"b"}))
    beliefs = Beliefs(10, {ONE: before, TWO: before})
    beliefs.hear(ONE, WORKS, Message(Version("new", 1), None, {}), 0)  # it does not know yet
    beliefs.tasks(100)
    assert beliefs.prepared() == {ONE: before, TWO: before}
    beliefs.hear(ONE, WORKS, Message(Version("new", 2), None, {}, after), 0)
    beliefs.hear(TWO, WORKS, Message(Version("new", 1), None, {}, Prepared()), 0)
    assert beliefs.prepared() == {ONE: after}
    beliefs.addresses = (TWO,)
    assert beliefs.prepared() == {}
