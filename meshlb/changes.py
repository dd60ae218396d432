"""What changed from one table to the next, in words for the log. Pure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

from meshlb.model import BackendState, PortState, PortStatus
from meshlb.table import Backend, Table, changed


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the log."""

    text: str
    level: int = logging.INFO
    fields: dict[str, object] = field(default_factory=dict)


def of_ports(old: Iterable[PortStatus], new: Iterable[PortStatus], table: Table) -> Iterator[Change]:
    """Ports that are served otherwise than before, or no more."""
    before = {str(status.port): status for status in old}
    after = {str(status.port): status for status in new}
    backends = {entry.port: len(entry.backends) for entry in table.entries}
    for port, status in before.items():
        if port not in after:
            yield _about(status, "closed")
    for port, status in after.items():
        if status != before.get(port):
            yield _of_port(status, backends.get(status.port, 0))


def _of_port(status: PortStatus, backends: int) -> Change:
    reason = f": {status.reason}" if status.reason else ""
    if status.state is PortState.FAILED:
        return _about(status, f"failed{reason}", logging.WARNING)
    return _about(status, f"{status.state}, {backends} backend{'' if backends == 1 else 's'}{reason}")


def _about(status: PortStatus, text: str, level: int = logging.INFO) -> Change:
    fields: dict[str, object] = {"port": str(status.port), "service": status.service}
    return Change(f"port {status.port} of service {status.service}: {text}", level, fields)


def of_backends(old: Table, new: Table) -> Iterator[Change]:
    """Services that both tables serve and whose backends are others, or in another state."""
    services = changed(old, new)
    before, after = _backends(old, services), _backends(new, services)
    for service in before.keys() & after.keys():
        was, now = before[service], after[service]
        if was != now:
            counts = f"+{len(now.keys() - was.keys())} -{len(was.keys() - now.keys())}"
            yield Change(f"table: {service} {counts} backends, {_states(now)}", fields={"service": service})


def _backends(table: Table, services: Container[str]) -> dict[str, dict[str, Backend]]:
    found: dict[str, dict[str, Backend]] = {}
    for entry in (entry for entry in table.entries if entry.service in services):
        found.setdefault(entry.service, {}).update({backend.task: backend for backend in entry.backends})
    return found


def _states(backends: dict[str, Backend]) -> str:
    counts = Counter(backend.state for backend in backends.values())
    return ", ".join(f"{counts[state]} {state}" for state in BackendState if counts[state]) or "none left"


def of_problems(old: Iterable[str], new: Iterable[str]) -> Iterator[Change]:
    """Problems that appeared, and those that are gone."""
    before, after = dict.fromkeys(old), dict.fromkeys(new)
    for problem in after:
        if problem not in before:
            yield Change(problem, logging.WARNING)
    for problem in before:
        if problem not in after:
            yield Change(f"no more: {problem}")
