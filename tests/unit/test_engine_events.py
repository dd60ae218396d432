"""Events of local containers become marks on tasks, and marks end with their tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_engine import recorded

from meshlb.model import BackendState
from meshlb.swarm.events import PATIENCE, Event, Marks, parse_containers, parse_event

DRAINING, DOWN, UP = BackendState.DRAINING, BackendState.DOWN, None
TERM, KILL, HUP = Event("kill", "t", "15"), Event("kill", "t", "9"), Event("kill", "t", "1")
SICK, WELL = Event("health_status: unhealthy", "t"), Event("health_status: healthy", "t")
START, DIE, DESTROY = Event("start", "t"), Event("die", "t"), Event("destroy", "t")


def after(*events: Event) -> BackendState | None:
    marks = Marks()
    for event in events:
        marks.apply(event, 0.0)
    return marks.states().get("t")


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((START,), UP),
        ((TERM,), DRAINING),
        ((Event("kill", "t", "3"),), DRAINING),
        ((HUP,), UP),
        ((KILL,), DOWN),
        ((DIE,), DOWN),
        ((DESTROY,), DOWN),
        ((SICK,), DRAINING),
        ((SICK, WELL), UP),
        ((SICK, TERM, KILL, DIE), DOWN),
        ((TERM, WELL), DRAINING),
        ((TERM, HUP), DRAINING),
        ((DIE, TERM, SICK, WELL), DOWN),
        ((DIE, START), UP),
        ((TERM, START), UP),
        ((SICK, TERM, WELL), UP),
    ],
)
def test_states(events: tuple[Event, ...], state: BackendState | None) -> None:
    assert after(*events) == state


def test_marks_end_with_their_tasks() -> None:
    marks = Marks()
    marks.apply(DIE, 0.0)
    marks.prune({"t"}, 1e9)
    assert marks.states() == {"t": DOWN}
    marks.prune(set(), 1.0)
    assert marks.states() == {}


def test_ignored_signal_is_forgotten_but_bad_health_is_not() -> None:
    marks = Marks()
    marks.apply(TERM, 0.0)
    marks.prune({"t"}, PATIENCE - 1)
    assert marks.states() == {"t": DRAINING}
    marks.prune({"t"}, PATIENCE)
    assert marks.states() == {}
    marks.apply(SICK, 0.0)
    marks.apply(TERM, 0.0)  # Swarm stops it now, and shows it until it is dead
    marks.prune({"t"}, PATIENCE)
    assert marks.states() == {"t": DRAINING}


def test_list_of_containers_replaces_marks_but_not_signals() -> None:
    marks = Marks()
    marks.apply(SICK, 0.0)
    marks.apply(Event("kill", "u", "15"), 0.0)
    marks.replace({"v": DOWN}, 1.0)
    assert marks.states() == {"u": DRAINING, "v": DOWN}


def test_recorded_events() -> None:
    lines = [json.dumps(event).encode() + b"\n" for event in recorded()["events"]]
    events = [event for line in lines if (event := parse_event(line))]
    assert Event("start", "f1bpaywk7lvdaqqek6gb54w80") in events
    assert Event("kill", "f1bpaywk7lvdaqqek6gb54w80", "15") in events
    assert Event("health_status: unhealthy", "f1bpaywk7lvdaqqek6gb54w80") in events


def test_events_of_newer_engines_have_no_legacy_fields() -> None:
    """From API 1.52 on `status`, `id` and `from` are gone; json-seq starts each line with RS."""
    event = next(event for event in recorded()["events"] if event.get("status") == "die")
    for legacy in ("status", "id", "from"):
        del event[legacy]
    assert parse_event(b"\x1e" + json.dumps(event).encode() + b"\n") == Event(
        "die", "nv4npps2sopqf1mwwl5rne5nn"
    )


def test_swarm_events_are_known_by_kind() -> None:
    line = (
        b'{"Type":"service","Action":"update","Actor":{"ID":"x","Attributes":{"name":"web"}},"scope":"swarm"}'
    )
    assert parse_event(line) == Event("service update")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"Type":"container"}',
        b'{"Type":"container","Action":"die","Actor":null}',
        b'{"Type":"container","Action":"die","Actor":{"Attributes":[]}}',
        b'{"Type":"container","Action":"die","Actor":{"Attributes":{}}}',
        b'{"Type":"container","Action":4,"Actor":{"Attributes":{"com.docker.swarm.task.id":"t"}}}',
        b'{"Type":"container","Action":"die","Actor":{"Attributes":{"com.docker.swarm.task.id":["t"]}}}',
    ],
)
def test_garbage_is_no_event(line: bytes) -> None:
    assert parse_event(line) is None


def test_containers() -> None:
    containers: list[Any] = recorded()["containers"]
    states = parse_containers(containers)
    assert states == {
        "f1bpaywk7lvdaqqek6gb54w80": DOWN,
        "nv4npps2sopqf1mwwl5rne5nn": DOWN,
    }
    running = next(container for container in containers if "(healthy)" in container["Status"])
    running["Status"] = "Up 3 minutes (unhealthy)"
    assert parse_containers([running]) == {"axb24wse4f1kl0bvez0vv33lm": DRAINING}


@pytest.mark.parametrize("garbage", [None, {}, "x", [None], [{}], [{"Labels": None}], [{"Labels": {"x": 1}}]])
def test_garbage_is_no_list_of_containers(garbage: object) -> None:
    assert parse_containers(garbage) == {}
