"""What another agent tells: a message, or a MessageError. What was understood can be told on."""

from __future__ import annotations

from dataclasses import replace

import properties

from meshlb.docker_view import NOBODY, View, from_desired, snapshot
from meshlb.model import Desired, Service
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
    properties.table(snapshot(View(), from_desired(message.desired), NOBODY, {}, ("", 0)))


def _check_members(message: Message) -> None:
    assert message.version.epoch
    assert 0 <= message.version.count < 1 << 53
    names = [service.name for service in message.desired.services]
    assert all(names)
    assert len(set(names)) == len(names)
    for node in message.desired.nodes:
        assert max(map(len, (node.id, node.name, node.address))) <= MAX_NAME
    for service in message.desired.services:
        assert not service.tasks
        assert all(0 < port.published < 65536 and 0 < port.target < 65536 for port in service.ports)


def _without_foreign_labels(desired: Desired) -> Desired:
    return replace(desired, services=tuple(map(_own_labels, desired.services)))


def _own_labels(service: Service) -> Service:
    return replace(service, labels=tuple(pair for pair in service.labels if pair[0].startswith(LABEL_PREFIX)))
