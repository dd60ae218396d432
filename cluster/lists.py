"""The lists of a service's specification: what one entry is, and how flags add and take away (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from meshlb.cluster.publish import PublishedPort
from meshlb.cluster.units import pair
from meshlb.errors import ConfigError

Json = dict[str, Any]
_CONTAINER = "TaskTemplate.ContainerSpec"


@dataclass(frozen=True, slots=True)
class Edit:
    """What to add to a list of the specification and what to take away; taking away comes first."""

    add: tuple[Any, ...] = ()
    remove: tuple[Any, ...] = ()


NOTHING = Edit()


def _edited_map(before: Json, wanted: Edit, _: Entries) -> Json:
    kept = {name: value for name, value in dict(before).items() if name not in wanted.remove}
    return kept | dict(pair(text, "label") for text in wanted.add)


def _edited(before: Iterable[Any], wanted: Edit, entries: Entries) -> list[Any]:
    """Takes away by name, and adds in place of what has the same identity."""
    names = entries.removed or (lambda entry: (entries.identity(entry),))
    kept = [entry for entry in before if not set(names(entry)) & set(wanted.remove)]
    found = {entries.identity(entry): entry for entry in kept}
    return list((found | {entries.identity(entry): entry for entry in wanted.add}).values())


def _edited_ports(before: Iterable[Json], wanted: Edit, _: Entries) -> list[Json]:
    kept = [port for port in before if not _removed(port, wanted.remove)]
    added: Iterable[PublishedPort] = wanted.add
    for port in dict.fromkeys(added):
        clash = [old for old in kept if _clash(old, port)]
        if clash and clash[0]["TargetPort"] != port.target:
            raise ConfigError(
                f"port {port.published}/{port.protocol} is published twice, to {clash[0]['TargetPort']} "
                f"and to {port.target}: each published port leads to one target"
            )
        kept = [old for old in kept if old not in clash] + [port.spec()]
    return kept


def _removed(port: Json, targets: tuple[tuple[int, str, str], ...]) -> bool:
    return (port["TargetPort"], port.get("Protocol", "tcp"), port.get("PublishMode") or "ingress") in targets


def _clash(old: Json, port: PublishedPort) -> bool:
    same = (old.get("PublishedPort", 0), old.get("Protocol", "tcp")) == (port.published, port.protocol)
    return same and port.published != 0


@dataclass(frozen=True, slots=True)
class Entries:
    """One list, by the name of its flag.

    `identity` tells which entry an added one replaces, `removed` by which names one is taken away (the
    same where it is None), `order` how the engine gets them sorted (as they come where it is None).
    """

    path: str
    identity: Callable[[Any], Any] = str
    removed: Callable[[Any], Iterable[Any]] | None = None
    order: Callable[[Any], Any] | None = None
    always: bool = False  # sorted from the beginning
    change: Callable[[Any, Edit, Entries], Any] = _edited


def _target(entry: Json) -> str:
    return str(entry["Target"])


def _name(entry: Json) -> str:
    return str(entry["Name"])


def _variable(text: str) -> str:
    return text.partition("=")[0]


def _host_names(entry: str) -> tuple[str, ...]:
    """`1.2.3.4 db alias`, as hosts(5) has it, is taken away as `db`, as `alias`, or as `db:1.2.3.4`."""
    address, *names = entry.split()
    return (*names, *(f"{name}:{address}" for name in names))


def _reference(kind: str) -> Entries:
    return Entries(
        f"{_CONTAINER}.{kind}s",
        lambda entry: (entry.get("File") or {}).get("Name"),
        lambda entry: (entry[f"{kind}Name"],),
    )


def _port_order(port: Json) -> str:
    return "{}:{}/{}/{}".format(*(port.get(key, "") for key in _PORT_KEYS))


_PORT_KEYS = ("PublishedPort", "TargetPort", "Protocol", "PublishMode")

LISTS: dict[str, Entries] = {
    "label": Entries("Labels", change=_edited_map),
    "container-label": Entries(f"{_CONTAINER}.Labels", change=_edited_map),
    "sysctl": Entries(f"{_CONTAINER}.Sysctls", change=_edited_map),
    "env": Entries(f"{_CONTAINER}.Env", _variable),
    "constraint": Entries("TaskTemplate.Placement.Constraints", order=str),
    "placement-pref": Entries(
        "TaskTemplate.Placement.Preferences", lambda entry: entry["Spread"]["SpreadDescriptor"]
    ),
    "network": Entries("TaskTemplate.Networks", _target, order=_target, always=True),
    "mount": Entries(
        f"{_CONTAINER}.Mounts", _target, order=lambda entry: (entry.get("Source", ""), _target(entry))
    ),
    "secret": _reference("Secret"),
    "config": _reference("Config"),
    "group": Entries(f"{_CONTAINER}.Groups", order=str),
    "dns": Entries(f"{_CONTAINER}.DNSConfig.Nameservers", order=str),
    "dns-option": Entries(f"{_CONTAINER}.DNSConfig.Options", order=str),
    "dns-search": Entries(f"{_CONTAINER}.DNSConfig.Search", order=str),
    "host": Entries(f"{_CONTAINER}.Hosts", removed=_host_names),
    "ulimit": Entries(f"{_CONTAINER}.Ulimits", _name, order=_name, always=True),
    "generic-resource": Entries(
        "TaskTemplate.Resources.Reservations.GenericResources",
        lambda entry: next(iter(entry.values()))["Kind"],
    ),
    "publish": Entries("EndpointSpec.Ports", order=_port_order, change=_edited_ports),
}


def edit(spec: Json, entries: Entries, wanted: Edit) -> None:
    """Makes the edit in `spec`; the order of a list changes only with its entries."""
    if wanted == NOTHING:
        return
    *parents, last = entries.path.split(".")
    place = spec
    for key in parents:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
    before = place.get(last) or ()
    after = entries.change(before, wanted, entries)
    # As docker does: what is given at once keeps its order, what is changed is sorted.
    place[last] = sorted(after, key=entries.order) if entries.order and (before or entries.always) else after
