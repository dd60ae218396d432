"""The access log: a line in the agent's log for each connection that has ended, of ports that want it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from meshlb.logs import ACCESS, fields
from meshlb.model import endpoint
from meshlb.records import Ended

_log = logging.getLogger(ACCESS)
log = logging.getLogger(__name__)


def write(ended: Iterable[Ended], lost: int, nodes: Mapping[str, str]) -> int:
    """The lines, each with the time of its end, and how many are `lost`. `nodes` are names by address.

    Gives how many more are lost, as nobody reads them.
    """
    unread = 0
    for each in ended:
        record = logging.LogRecord(ACCESS, logging.INFO, "", 0, "connection", None, None)
        record.created = each.at
        record.fields = details(each, nodes)
        _log.handle(record)
        unread += getattr(record, "lost", False)
    if lost:
        log.warning(
            "the access log lacks lines: more connections ended than could be written",
            extra=fields(lost=lost),
        )
    return unread


def details(of: Ended, nodes: Mapping[str, str]) -> dict[str, object]:
    """What a line says. Pure."""
    backend = of.backend
    said: dict[str, object] = {"client": of.client, "port": str(of.port), "service": of.service}
    if backend is not None:
        said["task"] = backend.name or backend.task
        said["backend"] = endpoint(backend.address, backend.port)
    if backend is not None and backend.node:
        said["node"] = nodes.get(backend.node, backend.node)
    said |= {"received": of.received, "sent": of.sent}
    times = {"connect_ms": of.connect, "first_byte_ms": of.first_byte, "duration_ms": of.duration}
    said |= {name: round(time * 1000, 3) for name, time in times.items() if time is not None}
    return said | {"attempts": of.attempts, "reason": of.reason}
