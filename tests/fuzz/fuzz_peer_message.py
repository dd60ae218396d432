"""What another agent tells: a message, or a MessageError. What was understood can be told on."""

from __future__ import annotations

from dataclasses import replace

import properties

from meshlb.docker_view import NOBODY, View, from_desired, snapshot
from meshlb.model import Desired, Service, Task
from meshlb.peer_message import MAX_NAME, Message, MessageError, decode, encode
from meshlb.policy import LABEL_PREFIX

WORDS = (
    *(
        '"epoch":',
        '"count":',
        '"services":[',
        '"nodes":[',
        '"stopping":[',
        '"problems":[',
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
    try:
        message = decode(text)
    except MessageError as error:
        properties.sentence(str(error), 500)
        return
    _check_members(message)
    told_on = encode(message.version, message.desired)
    assert decode(told_on) == Message(message.version, _without_foreign_labels(message.desired))
    assert encode(message.version, decode(told_on).desired) == told_on
    view = View(tuple(map(_running, message.desired.services)))
    properties.table(snapshot(view, from_desired(message.desired), NOBODY, {}, ("", 0)))


def _check_members(message: Message) -> None:
    assert message.version.epoch
    assert type(message.version.count) is int
    assert 0 <= message.version.count < 1 << 53
    names = [service.name for service in message.desired.services]
    assert all(names)
    assert len(set(names)) == len(names)
    for node in message.desired.nodes:
        assert max(map(len, (node.id, node.name, node.address))) <= MAX_NAME
    for service in message.desired.services:
        assert not service.tasks
        assert all(0 < port.published < 65536 and 0 < port.target < 65536 for port in service.ports)


def _running(service: Service) -> Service:
    """With a task, on a node whose labels the message may tell."""
    return replace(service, tasks=(Task("t1", "web.1", "10.255.0.7", "10.0.0.1"),))


def _without_foreign_labels(desired: Desired) -> Desired:
    return replace(
        desired,
        services=tuple(replace(service, labels=_own(service.labels)) for service in desired.services),
        nodes=tuple(replace(node, labels=_own(node.labels)) for node in desired.nodes),
    )


def _own(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(pair for pair in labels if pair[0].startswith(LABEL_PREFIX))
