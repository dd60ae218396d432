"""The policies of a service's published ports, as its labels make them, and what is wrong with the labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshlb.model import Port, Service, Snapshot
from meshlb.policy import ALL_OTHERS, KEYS, PROXY_PROTOCOLS, Policy
from meshlb.table import Table, build

_SECOND_UNITS = ((3600, "h"), (60, "m"))


def table_of(service: dict[str, Any]) -> Table:
    """What agents make of a service of the engine's JSON, without its tasks."""
    spec = service["Spec"]
    ports = (
        ((service.get("Endpoint") or {}).get("Ports")) or (spec.get("EndpointSpec") or {}).get("Ports") or ()
    )
    mesh = tuple(
        Port(published=port["PublishedPort"], target=port["TargetPort"], protocol=port["Protocol"])
        for port in ports
        if port.get("PublishMode", "ingress") == "ingress" and port.get("PublishedPort")
    )
    labels = tuple(sorted((spec.get("Labels") or {}).items()))
    found = Service(id=service["ID"], name=spec.get("Name", ""), ports=mesh, tasks=(), labels=labels)
    return build(Snapshot(services=(found,)))


def policy_lines(service: dict[str, Any]) -> Iterator[str]:
    """The lines of `service inspect --pretty`; none where nothing is published and no label is wrong."""
    table = table_of(service)
    if table.entries:
        yield "Policies:"
    for entry in table.entries:
        yield f" {entry.port.published}/{entry.port.protocol}:"
        for name, text in spelled(entry.policy).items():
            default = text == spelled(Policy())[name]
            yield f"  {name} = {text}{'  (default)' if default else ''}"
    if table.problems:
        yield "Problems:"
    yield from (f" {problem}" for problem in table.problems)


def spelled(policy: Policy) -> dict[str, str]:
    """Every key's value as a label would say it."""
    return {name: _spell(name, getattr(policy, key.field)) for name, key in KEYS.items()}


def _spell(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if name == "proxy-protocol":
        return next(word for word, number in PROXY_PROTOCOLS.items() if number == value)
    if name == "retries" and value == ALL_OTHERS:
        return "all"
    if value and KEYS[name].kind in _UNITS:
        return _UNITS[KEYS[name].kind](value)
    return "none" if value == 0 and "none" in KEYS[name].allowed else str(value)


def _seconds(value: float) -> str:
    if not value:
        return "none"
    for step, unit in _SECOND_UNITS:
        if value >= step and value % step == 0:
            return f"{value / step:g}{unit}"
    return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"


def _rate(value: float) -> str:
    for count, unit in ((value, "s"), (value * 60, "m"), (value * 3600, "h")):
        if abs(count - round(count)) < 1e-6:
            return f"{round(count)}/{unit}"
    return f"{value:g}/s"


_UNITS = {"duration": _seconds, "rate": _rate}
