"""Answers of a hostile Docker Engine: values of ours or an EngineError, and a table that can be served.

Input: one JSON object whose members are the answers, named as in tests/support/recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import properties

from meshlb.errors import EngineError
from meshlb.model import BackendState, Node
from meshlb.swarm import api as docker_api
from meshlb.swarm import events as docker_events
from meshlb.swarm import lists as docker_lists
from meshlb.swarm import snapshots
from meshlb.swarm import view as docker_view
from meshlb.swarm.lists import Lists
from meshlb.swarm.targets import Ports
from meshlb.swarm.view import NOBODY, View

WORDS = (
    *(
        '"Services":{',
        '"Tasks":[',
        '"Ports":[',
        '"Peers":[',
        '"EndpointIP":',
        '"Info":{',
        '"Host IP":',
        '"Labels":{',
    ),
    *(
        '"Target: 1, Publish: 2"',
        '"PublishMode":"ingress"',
        '"Swarm":{',
        '"LocalNodeState":',
        '"Status":',
        '"ID":',
    ),
)

_Value = TypeVar("_Value")


def check(data: bytes) -> None:
    """The bytes as an event, as an error's body and as answers."""
    properties.sentence(docker_api._message(data), 1_000)
    _check_event(data)
    docker_lists.find_wanted(data)
    found = _own(docker_api.parse, data, "/x")
    answers = found if isinstance(found, dict) else {}
    view = _own(docker_view.parse_view, answers.get("view", found)) or View()
    lists = _own(docker_lists.parse_lists, answers.get("services"), answers.get("nodes", []))
    wanted = _own(docker_lists.parse_wanted, answers.get("tasks", found)) or frozenset[str]()
    states = docker_events.parse_containers(answers.get("containers", found))
    network = _own(docker_view.find_ingress, answers.get("networks", found))
    assert isinstance(network, str | None)
    membership = _own(docker_view.parse_membership, answers.get("info", found))
    _check_tables(view, lists, membership.node if membership else NOBODY, wanted, states)


def _own(parse: Callable[..., _Value], *found: Any) -> _Value | None:
    """What `parse` makes of it, twice the same; None for an EngineError."""
    try:
        value = parse(*found)
    except EngineError as error:
        properties.sentence(str(error), 1_500)
        return None
    assert repr(value) == repr(parse(*found)) or isinstance(value, Lists | View)
    return value


def _check_event(line: bytes) -> None:
    event = docker_events.parse_event(line)
    if event is not None:
        assert all(isinstance(text, str) for text in (event.action, event.task, event.signal))
        marks = docker_events.Marks()
        marks.apply(event, 0.0)
        assert len(marks.states()) <= 1
        assert set(marks.states()) <= {event.task}


def _check_tables(
    view: View,
    lists: Lists | None,
    own: Node,
    wanted: frozenset[str],
    states: dict[str, BackendState],
) -> None:
    namespace = ("/run/ns", 1)
    properties.table(snapshots.snapshot(view, None, own, states, namespace))
    remembered = Ports().remember(snapshots.carry_tasks(view, View(), own.address, lists), 0.0)
    told = docker_lists.carry_lists(lists, lists, view) if lists else None
    if told:
        stopping = docker_lists.stopping(view, told, wanted)
        assert not stopping & wanted
        told = docker_lists.from_desired(docker_lists.to_desired(told))
    properties.table(snapshots.snapshot(remembered, told, own, states, namespace))
