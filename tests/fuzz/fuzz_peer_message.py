"""What another agent tells: a message, or a MessageError. What was understood can be told on."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import properties

from meshlb.model import BackendState, Desired, Port, Remote, Service, Snapshot, Task
from meshlb.peers import shown
from meshlb.peers.beliefs import Beliefs
from meshlb.peers.identity import WORKER, Peer
from meshlb.peers.message import (
    MAX_NAME,
    MAX_TASKS,
    Message,
    MessageError,
    Version,
    decode,
    encode,
    encode_tasks,
)
from meshlb.policy import LABEL_PREFIX
from meshlb.swarm.lists import from_desired
from meshlb.swarm.remote import lay_over
from meshlb.swarm.snapshots import snapshot
from meshlb.swarm.view import NOBODY, View

ADDRESS = "10.0.0.1"

WORDS = (
    *(
        '"epoch":',
        '"count":',
        '"services":[',
        '"nodes":[',
        '"stopping":[',
        '{"shown":"counts","at":',
        '{"shown":"events","at":',
        '"connect_buckets":[',
        '"look":',
        '"problems":[',
        '"tasks":{',
        '"draining"',
        '"down"',
        '"labels":{',
        '"ports":[',
    ),
    *(
        '"published":',
        '"target":',
        '"protocol":"tcp"',
        '"name":',
        '"id":',
        '"address":',
        '"meshlb.hold":',
        "\\ud800",
    ),
)


def check(data: bytes) -> None:
    """As the WebSocket does it: text that is UTF-8; a lone surrogate comes as an escape."""
    text = data.decode(errors="replace")
    if shown.is_shown(text):
        _check_shown(text)
        return
    _check_asking(text)
    try:
        message = decode(text)
    except MessageError as error:
        properties.sentence(str(error), 500)
        return
    assert message.version.epoch
    assert type(message.version.count) is int
    assert 0 <= message.version.count < 1 << 53
    assert (message.desired is None) != (message.tasks is None)
    if message.desired is not None:
        _check_desired(message.version, message.desired)
    else:
        _check_tasks(message)


def _check_shown(text: str) -> None:
    """What is for people's eyes can be told on, as one line that every JSON parser takes."""
    try:
        told = shown.decode(text)
    except MessageError as error:
        properties.sentence(str(error), 500)
        return
    assert told.text.isascii()
    assert told.text.isprintable()
    assert not {"NaN", "Infinity"} & set(re.findall(r"(?<=[:,\[])\w+", told.text))
    document = {name: value for name, value in json.loads(told.text).items() if name not in ("shown", "at")}
    again = shown.decode(shown.encode(told.kind, told.at, document))
    assert json.loads(again.text) == document


def _check_asking(text: str) -> None:
    try:
        every = shown.asked(text)
    except MessageError as error:
        properties.sentence(str(error), 500)
        return
    assert every == 0 or shown.SOONEST <= every <= shown.LATEST


def _check_desired(version: Version, desired: Desired) -> None:
    _check_members(desired)
    told_on = encode(version, desired)
    again = decode(told_on)
    assert again == Message(version, _without_foreign_labels(desired))
    assert again.desired is not None
    assert encode(version, again.desired) == told_on
    view = View(tuple(map(_running, desired.services)))
    properties.table(snapshot(view, from_desired(desired), NOBODY, {}, ("", 0)))


def _check_tasks(message: Message) -> None:
    """What is told of tasks can be told on; a worker is never believed more than that."""
    assert message.tasks is not None
    assert len(message.tasks) <= MAX_TASKS
    assert all(len(task) <= MAX_NAME for task in message.tasks)
    assert set(message.tasks.values()) <= {BackendState.DRAINING, BackendState.DOWN}
    assert decode(encode_tasks(message.version, message.tasks, message.prepared)) == message
    beliefs = Beliefs(1.0)
    beliefs.hosts = dict.fromkeys(list(message.tasks)[::2], ADDRESS)
    assert beliefs.hear("10.0.0.2", Peer("n", WORKER, "c"), message, 0.0) is None
    believed = beliefs.tasks(0.0)
    assert not {task for told in believed.values() for task in told} & beliefs.hosts.keys()
    tasks = tuple(Task(task, f"web.{task}", "10.255.0.7", "10.0.0.2") for task in message.tasks)
    service = Service("s", "web", (Port(80, 80),), tasks)
    properties.table(lay_over(Snapshot((service,)), Remote(believed, frozenset({"10.0.0.2"}))))


def _check_members(desired: Desired) -> None:
    names = [service.name for service in desired.services]
    assert all(names)
    assert len(set(names)) == len(names)
    for node in desired.nodes:
        assert max(map(len, (node.id, node.name, node.address))) <= MAX_NAME
    for service in desired.services:
        assert not service.tasks
        assert all(0 < port.published < 65536 and 0 < port.target < 65536 for port in service.ports)


def _running(service: Service) -> Service:
    """With a task, on a node whose labels the message may tell."""
    return replace(service, tasks=(Task("t1", "web.1", "10.255.0.7", ADDRESS),))


def _without_foreign_labels(desired: Desired) -> Desired:
    return replace(
        desired,
        services=tuple(replace(service, labels=_own(service.labels)) for service in desired.services),
        nodes=tuple(replace(node, labels=_own(node.labels)) for node in desired.nodes),
    )


def _own(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(pair for pair in labels if pair[0].startswith(LABEL_PREFIX))
