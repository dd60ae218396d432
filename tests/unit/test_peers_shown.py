"""What agents show each other for people who look: asked for, checked, and never worth a connection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from channel import HERE, connected, run, running, state, telling, until

from meshlb.peers import shown
from meshlb.peers.message import LOOKING, SUBPROTOCOL, MessageError
from meshlb.peers.shown import COUNTS, EVENTS, MAX_BACKENDS, Looker, Shown, asked, asks, decode, encode

ROWS: dict[str, list[Any]] = {
    "port": ["80/tcp", "80/tcp"],
    "task": ["t1", "t2"],
    "active": [1, 0],
    "connected": [2, 0],
    "failed": [3, 0],
    "received": [4, 0],
    "sent": [5, 0],
    "aside": [False, True],
    "connect_buckets": [[2, 7], []],
    "first_byte_buckets": [[], [3, 1]],
}
PORTS: dict[str, list[Any]] = {
    "port": ["80/tcp"],
    "open": [1],
    "accepted": [2],
    "failed": [3],
    "failovers": [4],
    "received": [5],
    "sent": [6],
    "connect_buckets": [[]],
    "first_byte_buckets": [[1, 2]],
}
NONE: dict[str, list[Any]] = {name: [] for name in PORTS}
EVENT = {"id": 1, "time": 5.5, "kind": "task-up", "text": "web.1 is up", "task": "t1", "node": "192.0.2.1"}
DOCUMENT: dict[str, Any] = {"ports": PORTS, "backends": ROWS}


def test_what_is_shown_arrives_without_what_is_not_known() -> None:
    text = encode(COUNTS, 12.25, {**DOCUMENT, "time": 12.25})
    assert shown.is_shown(text)
    assert decode(text) == Shown(COUNTS, 12.25, json.dumps(DOCUMENT, separators=(",", ":")))
    told = {**EVENT, "secret": "x"}
    assert json.loads(decode(encode(EVENTS, 1.0, {"events": [told]})).text) == {"events": [EVENT]}
    told = {"ports": NONE, "backends": {**ROWS, "secret": ["x", "y"]}}
    assert json.loads(decode(encode(COUNTS, 1.0, told)).text)["backends"] == ROWS


@pytest.mark.parametrize(
    "change",
    [
        ('"t1"', '"\u00e4"'),  # not ASCII
        ('"ports":', '\n"ports":'),
        ('"ports":', '\r\n\r\n"ports":'),
        ('"ports":', '\t"ports":'),
        ('"at":1.0', '"at":"a,b","at":1.0'),
        ('"at":1.0', '"at":1.0,"secret":"x"'),
        ('"shown":"counts","at":1.0,', '"shown":"events","shown":"counts","at":1.0,'),
    ],
)
def test_what_is_told_on_is_one_line_of_what_is_known(change: tuple[str, str]) -> None:
    text = encode(COUNTS, 1.0, DOCUMENT)
    told = decode(text.replace(*change)).text
    assert told.isascii()
    assert told.isprintable()
    assert json.loads(told).keys() == {"ports", "backends"}


def test_no_more_is_told_than_is_taken() -> None:
    many = {name: column * MAX_BACKENDS for name, column in ROWS.items()}
    told = decode(encode(COUNTS, 1.0, {"ports": NONE, "backends": many}))
    assert len(json.loads(told.text)["backends"]["task"]) == MAX_BACKENDS
    events = [{**EVENT, "id": number} for number in range(100)]
    told = decode(encode(EVENTS, 1.0, {"events": events}))
    assert json.loads(told.text)["events"][-1]["id"] == 99


@pytest.mark.parametrize(
    "change",
    [
        {"task": ["t1", 5]},
        {"task": ["t1", "x" * 400]},
        {"task": "t1"},
        {"task": ["t1"]},
        {"task": ["t1"] * 3},
        {"active": [-1, 0]},
        {"active": [0, True]},
        {"active": [1.5, 0]},
        {"active": [0, 10**20]},
        {"active": []},
        {"aside": [True, 1]},
        {"connect_buckets": [[1], []]},
        {"connect_buckets": [[], ["1", 2]]},
        {"connect_buckets": [[], [0] * 100]},
        {"connect_buckets": [[2, -7], []]},
        {"first_byte_buckets": [None, []]},
    ],
)
def test_nonsense_is_not_taken(change: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        decode(encode(COUNTS, 1.0, {"ports": NONE, "backends": {**ROWS, **change}}))


@pytest.mark.parametrize(
    "text",
    [
        '{"shown":',
        '{"shown":"counts"}',
        encode(COUNTS, 1.0, DOCUMENT).replace("1.0", "NaN"),
        encode(COUNTS, 1.0, DOCUMENT).replace('"ports"', '"ports":NaN,"ports"'),
        encode(COUNTS, 1.0, DOCUMENT).replace('"at"', '"secret":-Infinity,"at"'),
        '{"shown":"counts","at":1,"ports":{},"backends":{}}',
        '{"shown":"counts","at":1,"ports":[[]],"backends":[]}',
        '{"shown":"else","at":1}',
        '{"shown":"events","at":1,"events":[{"id":1,"kind":"x","text":"y","time":-1}]}',
        '{"shown":"events","at":1,"events":[{"id":1,"kind":"x","text":"y","time":1,"node":[]}]}',
        '{"shown":' + "[" * 100_000,
        '{"shown":"events","at":1,"events":[],"more":"' + "x" * shown.MAX_BYTES + '"}',
    ],
)
def test_nor_what_is_no_such_message(text: str) -> None:
    assert shown.is_shown(text)
    with pytest.raises(MessageError):
        decode(text)


def test_how_often_is_bounded() -> None:
    assert [asked(asks(every)) for every in (0.0, 0.1, 5.0, 1e9)] == [0.0, 1.0, 5.0, 60.0]
    for text in (
        "",
        "[]",
        "{}",
        '{"look":"1"}',
        '{"look":-1}',
        '{"look":Infinity}',
        '{"look":true}',
        '{"look":1' + "0" * 400 + "}",
    ):
        with pytest.raises(MessageError):
            asked(text)


def test_counts_come_as_often_as_asked_for_and_events_at_once() -> None:
    looker = Looker()
    assert looker.next({COUNTS: "a"}, 0.0) == []
    looker.ask(5.0)
    assert looker.next({COUNTS: "a", EVENTS: "b"}, 0.0) == ["a", "b"]
    assert looker.next({COUNTS: "c", EVENTS: "b"}, 1.0) == []
    assert looker.next({COUNTS: "c", EVENTS: "d"}, 2.0) == ["d"]
    assert looker.next({COUNTS: "c", EVENTS: "d"}, 5.0) == ["c"]
    assert looker.next({COUNTS: "x" * 2_000_000, EVENTS: "d"}, 10.0)
    assert looker.next({COUNTS: "y", EVENTS: "d"}, 16.0) == []  # after a large one for longer
    looker.ask(0.0)
    assert looker.next({COUNTS: "z", EVENTS: "d"}, 99.0) == []


def test_who_looks_is_shown_and_who_does_not_is_not(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard, "the state")
            told.peers.show(COUNTS, 1.0, DOCUMENT)  # nobody looks
            heard.peers.look(True)
            await until(lambda: told.watched == [True], "the agent to know that somebody looks")
            assert heard.shown == []
            told.peers.show(COUNTS, 2.0, DOCUMENT)
            told.peers.show(EVENTS, 3.0, {"events": [EVENT]})
            await until(lambda: len(heard.shown) == 2, "what it shows")
            assert {(address, each.at) for address, each in heard.shown} == {(HERE, 2.0), (HERE, 3.0)}
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "states beside it")
            heard.peers.look(False)
            await until(lambda: told.watched == [True, False], "the agent to know that nobody looks")

    run(scenario())


def test_who_hangs_up_looks_no_more(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            async with connected(told.peers.port, worker, protocols=(LOOKING,)) as link:
                await link.send_str(asks(1.0))
                await until(lambda: told.watched == [True], "the agent to know that somebody looks")
            await until(lambda: told.watched == [True, False], "the agent to know that nobody looks")

    run(scenario())


def test_an_agent_of_a_former_release_is_shown_nothing(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with (
            telling(manager, state("one")) as told,
            connected(told.peers.port, worker, protocols=(SUBPROTOCOL,)) as former,
            connected(told.peers.port, worker, protocols=(LOOKING, SUBPROTOCOL)) as looking,
        ):
            await looking.send_str(asks(1.0))
            await until(lambda: told.watched, "the agent to know that somebody looks")
            told.peers.show(COUNTS, 1.0, DOCUMENT)
            while not shown.is_shown(await looking.receive_str(timeout=5)):
                pass
            for _ in range(2):
                assert not shown.is_shown(await former.receive_str(timeout=5))
            with pytest.raises(TimeoutError):
                await former.receive_str(timeout=0.3)

    run(scenario())


def test_an_agent_of_a_former_release_is_not_asked(
    manager: Path, worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshlb.peers.server.LANGUAGES", (SUBPROTOCOL,))

    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.look(True)
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard, "the state")
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "the next state")
            assert (told.watched, told.peers.counters.refused) == ([], 0)

    run(scenario())


def test_nonsense_for_people_ends_no_connection(
    manager: Path, worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "encode", lambda *_: json.dumps({"shown": "nonsense"}, separators=(",", ":")))

    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
            heard.peers.look(True)
            await until(lambda: told.watched == [True], "the agent to know that somebody looks")
            told.peers.show(COUNTS, 1.0, DOCUMENT)
            await until(lambda: heard.peers.counters.garbage, "the nonsense to be counted")
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "the next state")
            assert (heard.shown, heard.peers.counters.peers) == ([], 1)

    run(scenario())


def test_who_asks_nonsense_is_hung_up_on(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            async with connected(told.peers.port, worker, protocols=(LOOKING,)) as link:
                await link.send_str("hello")
                await until(lambda: not told.peers.counters.clients, "the end of the connection")
            assert told.peers.counters.refused == 1

    run(scenario())
