"""What managers tell, as text: round trips, and everything that is not such a message."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlb.model import BackendState, Desired, Node, Port, Prepared, Protocol, Service
from meshlb.peers import message as peer_message
from meshlb.peers.message import (
    MAX_NETWORKS,
    MAX_PORTS,
    MAX_PROBLEMS,
    MAX_TASKS,
    Ledger,
    Message,
    MessageError,
    Version,
    decode,
    encode,
    encode_tasks,
)


def told(text: str) -> Desired:
    """What a manager's message tells."""
    found = decode(text).desired
    assert found is not None
    return found


VERSION = Version("0123456789abcdef", 7)
DESIRED = Desired(
    (
        Service(
            "s1",
            "web",
            (Port(80, 8000), Port(53, 5353, Protocol.UDP)),
            (),
            (("meshlb.balance", "roundrobin"), ("meshlb.port.53.connect-timeout", "1s")),
        ),
        Service("s2", "db", (), ()),
    ),
    (Node("n1", "node1", "10.0.0.1", (("meshlb.weight", "3"),)), Node("n2", "node2", "10.0.0.2")),
    frozenset({"t1", "t2"}),
    ("service web: something",),
)


NODE = {"id": "1", "name": "n", "address": "10.0.0.1"}


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(VERSION, DESIRED))
    return found


def test_a_message_arrives_as_it_was_sent() -> None:
    assert decode(encode(VERSION, DESIRED)) == Message(VERSION, DESIRED)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ports = st.builds(Port, st.integers(1, 65535), st.integers(1, 65535), st.sampled_from(Protocol))
labels = st.dictionaries(names.map("meshlb.".__add__), names, max_size=4)
pairs = labels.map(lambda found: tuple(sorted(found.items())))
services = st.builds(
    Service,
    names,
    names.filter(bool),
    st.lists(ports, max_size=4, unique=True).map(tuple),
    st.just(()),
    pairs,
)
desireds = st.builds(
    Desired,
    st.lists(services, max_size=4, unique_by=lambda service: service.name).map(tuple),
    st.lists(st.builds(Node, names, names, names, pairs), max_size=4).map(tuple),
    st.frozensets(names, max_size=4),
    st.lists(names, max_size=4).map(tuple),
    st.booleans(),
)


@given(desireds, names.filter(bool), st.integers(0, (1 << 53) - 1))
def test_any_state_arrives_as_it_was_sent(desired: Desired, epoch: str, count: int) -> None:
    assert decode(encode(Version(epoch, count), desired)) == Message(Version(epoch, count), desired)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.text() | json_values.map(json.dumps))
def test_garbage_is_a_message_error(text: str) -> None:
    with pytest.raises(MessageError):
        decode(text)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in `value` with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@settings(max_examples=300)
@given(st.data())
def test_one_wrong_value_anywhere_is_refused_or_a_message(data: st.DataObject) -> None:
    found = document()
    container, key = data.draw(st.sampled_from(places(found)))
    container[key] = data.draw(json_values)
    with contextlib.suppress(MessageError):
        assert decode(json.dumps(found)).version.epoch


@given(st.dictionaries(names, st.sampled_from([BackendState.DRAINING, BackendState.DOWN]), max_size=5))
def test_states_of_tasks_arrive_as_they_were_sent(tasks: dict[str, BackendState]) -> None:
    assert decode(encode_tasks(VERSION, tasks)) == Message(VERSION, None, tasks)


def test_only_what_is_not_simply_up_is_told() -> None:
    tasks = {"a": BackendState.UP, "b": BackendState.SUSPECTED, "c": BackendState.DOWN}
    assert decode(encode_tasks(VERSION, tasks)).tasks == {"c": BackendState.DOWN}


def test_more_tasks_than_a_receiver_takes_are_left_out() -> None:
    many = {f"{number:06}": BackendState.DOWN for number in range(MAX_TASKS + 1)}
    told = decode(encode_tasks(VERSION, many)).tasks
    assert told is not None
    assert len(told) == MAX_TASKS


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([], "not an object"),
        ({"t": 1}, "not text"),
        ({"t" * 256: "down"}, "256 characters long"),
        ({"t": "d" * 256}, "256 characters long"),
        ({str(number): "down" for number in range(MAX_TASKS + 1)}, "10001 tasks"),
    ],
)
def test_other_tasks_are_refused(tasks: object, said: str) -> None:
    with pytest.raises(MessageError, match=said):
        decode(json.dumps({"epoch": "e", "count": 1, "tasks": tasks}))


def test_the_address_for_a_nodes_data_is_told_where_it_has_one() -> None:
    assert decode(encode_tasks(VERSION, {}, None, "172.16.0.1")).data == "172.16.0.1"
    assert decode(encode_tasks(VERSION, {}, None, "")).data == "", "it has none"
    assert decode(encode_tasks(VERSION, {})).data is None, "it does not know yet"
    for wrong in (7, "here", None, "172.16.0.1:80"):
        with pytest.raises(MessageError, match="address for its data"):
            decode(json.dumps({"epoch": "e", "count": 1, "tasks": {}, "data": wrong}))


def test_a_state_of_a_later_release_is_skipped() -> None:
    text = json.dumps({"epoch": "e", "count": 1, "tasks": {"t": "frozen", "u": "down"}})
    assert decode(text).tasks == {"u": BackendState.DOWN}


def test_a_message_is_of_one_kind() -> None:
    with pytest.raises(MessageError, match="both"):
        decode(json.dumps(document() | {"tasks": {}}))


@pytest.mark.parametrize("key", ["epoch", "count", "services", "nodes", "stopping", "problems"])
def test_every_member_is_needed(key: str) -> None:
    found = document()
    del found[key]
    with pytest.raises(MessageError, match=f"has no {key}"):
        decode(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": True}, "count that is not a number"),
        ({"count": -1}, "count that is not a number"),
        ({"count": 1 << 53}, "count that is not a number"),
        ({"count": 1.5}, "not an integer"),
        ({"count": float("nan")}, "not an integer"),
        ({"count": float("inf")}, "not an integer"),
        ({"old": 1}, "neither true nor false"),
        ({"old": None}, "neither true nor false"),
        ({"epoch": ""}, "empty epoch"),
        ({"epoch": "x" * 256}, "256 characters long"),
        ({"services": {}}, "not a list"),
        ({"services": [1]}, "a service is not an object"),
        ({"stopping": [1]}, "not text"),
        ({"stopping": ["a", "a"]}, "twice"),
        ({"stopping": ["\ud800"]}, "not valid Unicode"),
        ({"problems": ["p"] * 101}, "101 problems; 100 are allowed"),
        ({"nodes": [{"id": "1", "name": "n"}]}, "a node has no address"),
        ({"nodes": [NODE | {"labels": []}]}, "labels is not an object"),
        ({"nodes": [NODE | {"labels": {"meshlb.weight": 3}}]}, "a label is not text"),
        ({"nodes": [NODE | {"labels": dict.fromkeys(map(str, range(1001)), "")}]}, "a node has 1001 labels"),
    ],
)
def test_a_wrong_member_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MessageError, match=said):
        decode(json.dumps(document() | change))


@pytest.mark.parametrize(
    "change",
    [
        {"published": 0},
        {"target": 65536},
        {"protocol": "sctp"},
        {"published": "80"},
        {"published": None},
        {"protocol": 6},
    ],
)
def test_a_wrong_port_is_refused(change: dict[str, Any]) -> None:
    found = document()
    found["services"][0]["ports"][0] |= change
    with pytest.raises(MessageError):
        decode(json.dumps(found))


def test_a_service_told_twice_is_refused() -> None:
    found = document()
    found["services"].append(found["services"][0])
    with pytest.raises(MessageError, match="services that are there twice"):
        decode(json.dumps(found))


def test_a_member_told_twice_is_refused() -> None:
    text = encode(VERSION, DESIRED).replace('"count":7', '"count":7,"count":8')
    with pytest.raises(MessageError, match="member twice"):
        decode(text)


def test_an_earlier_release_tells_no_labels_of_nodes() -> None:
    assert told(json.dumps(document() | {"nodes": [NODE]})).nodes == (Node("1", "n", "10.0.0.1"),)


def test_what_a_later_release_adds_is_skipped() -> None:
    found = document() | {"weights": {"web": 3}}
    found["services"][0]["mode"] = "global"
    assert decode(json.dumps(found)).desired == DESIRED


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '{"a":' * 500_000,
        "1" * 1_000_000,
        '{"count": ' + "9" * 5000 + "}",
        " " * (peer_message.MAX_BYTES + 1),
        "\ud800",
        '"' + "é" * (peer_message.MAX_BYTES // 2) + '"',
    ],
    ids=["lists", "objects", "number", "count", "size", "surrogate", "bytes"],
)
def test_bombs_are_refused(text: str) -> None:
    with pytest.raises(MessageError):
        decode(text)


def test_a_message_is_four_mebibytes_long_at_most() -> None:
    text = encode(VERSION, DESIRED)
    assert decode(text.ljust(peer_message.MAX_BYTES)).desired == DESIRED
    with pytest.raises(MessageError, match="4194305 bytes long; 4194304 are allowed"):
        decode(text.ljust(peer_message.MAX_BYTES + 1))


def test_foreign_and_endless_labels_are_not_told() -> None:
    labels = (("com.example.password", "secret"), ("meshlb.a", "x" * 5000), ("meshlb.balance", "roundrobin"))
    text = encode(VERSION, Desired((Service("s", "web", (), (), labels),), (Node("n", "", "", labels),)))
    assert "secret" not in text
    assert told(text).nodes[0].labels == (("meshlb.balance", "roundrobin"),)
    assert told(text).services[0].labels == (("meshlb.balance", "roundrobin"),)


def test_only_what_is_old_is_said_to_be() -> None:
    assert "old" not in document()
    assert told(encode(VERSION, replace(DESIRED, old=True))).old


def test_a_service_with_more_ports_than_a_receiver_takes_keeps_no_other_from_being_told() -> None:
    ports = tuple(Port(number, 80) for number in range(1, MAX_PORTS + 2))
    most, more = Service("m", "most", ports[:-1], ()), Service("n", "more", ports, ())
    found = told(encode(VERSION, Desired((most, more), problems=("one",) * MAX_PROBLEMS)))
    assert found.services == (most,)
    assert found.problems[0].startswith("service more: it publishes 1001 ports; ")
    assert len(found.problems) == MAX_PROBLEMS


def test_a_state_that_is_too_large_is_not_told() -> None:
    many = tuple(Service("s", f"service-{number}", (), ()) for number in range(20_001))
    with pytest.raises(MessageError, match="20001 services; 20000 are allowed"):
        encode(VERSION, Desired(many))


def test_only_news_count() -> None:
    ledger = Ledger()
    assert ledger.is_news("a", Version("x", 2))
    assert not ledger.is_news("a", Version("x", 2))
    assert not ledger.is_news("a", Version("x", 1))
    assert ledger.is_news("b", Version("x", 1))
    assert ledger.is_news("a", Version("x", 3))


def test_a_restarted_agent_counts_anew_and_the_old_one_is_not_heard_any_more() -> None:
    ledger = Ledger()
    assert ledger.is_news("a", Version("x", 90))
    assert ledger.is_news("a", Version("y", 1))
    assert not ledger.is_news("a", Version("x", 91))
    assert ledger.is_news("a", Version("y", 2))


def test_the_ledger_is_bounded() -> None:
    ledger = Ledger(senders=3)
    for number in range(10):
        assert ledger.is_news(str(number), Version("x", 1))
    assert not ledger.is_news("9", Version("x", 1))
    assert ledger.is_news("0", Version("x", 1))


PREPARED = Prepared(frozenset({"t"}), frozenset({"10.0.0.2"}), frozenset({"10.0.0.0/24"}), "no nft")


def test_what_is_prepared_arrives_as_it_was_sent() -> None:
    for told in (PREPARED, Prepared(), None):
        assert decode(encode_tasks(VERSION, {}, told)).prepared == told


def test_with_more_networks_than_a_receiver_takes_nothing_is_prepared() -> None:
    many = replace(PREPARED, networks=frozenset(f"10.{number}.0.0/16" for number in range(MAX_NETWORKS + 1)))
    prepared = decode(encode_tasks(VERSION, {}, many)).prepared
    assert prepared is not None
    assert not prepared.tasks
    assert "networks" in prepared.problem


@pytest.mark.parametrize(
    "prepared",
    [
        [],
        {"tasks": []},
        {"tasks": [1], "hosts": [], "networks": []},
        {"tasks": [], "hosts": [], "networks": ["x"]},
    ],
)
def test_what_is_prepared_is_not_believed_unread(prepared: object) -> None:
    text = json.dumps({"epoch": "e", "count": 1, "tasks": {}, "prepared": prepared})
    with pytest.raises(MessageError):
        decode(text)
