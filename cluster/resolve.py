"""The names in a change of a service as the ids that the engine wants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from meshlb.cluster.client import APIClient, request
from meshlb.cluster.image import tagged
from meshlb.cluster.lists import Edit
from meshlb.cluster.reference import Reference
from meshlb.cluster.spec import Changes
from meshlb.errors import ConfigError


def resolved(api: APIClient, changes: Changes) -> Changes:
    """The changes with ids in place of names, and the image with its tag."""
    lists = dict(changes.lists)
    if lists.get("network", Edit()) != Edit():
        lists["network"] = _networks(api, lists["network"])
    for kind in ("secret", "config"):
        if kind in lists:
            lists[kind] = _references(api, kind, lists[kind])
    return replace(changes, values=_tagged(changes), lists=lists)


def _tagged(changes: Changes) -> dict[str, Any]:
    values = dict(changes.values)
    if "image" in values:
        if not values["image"] or any(mark.isspace() for mark in values["image"]):
            raise ConfigError(f'"{values["image"]}" is not the name of an image')
        values["image"] = tagged(values["image"])
    return values


def _networks(api: APIClient, edit: Edit) -> Edit:
    add = tuple({**network, "Target": _network(api, network["Target"])} for network in edit.add)
    return Edit(add, tuple(_network(api, name) for name in edit.remove))


def _network(api: APIClient, name: str) -> str:
    """The id of one of the swarm's: a node has a `host` of its own, and may have others by the same name."""
    return str(api.inspect_network(name, scope="swarm")["Id"])


def _references(api: APIClient, kind: str, edit: Edit) -> Edit:
    ids = _ids(api, kind, {reference.source for reference in edit.add}) if edit.add else {}
    return Edit(tuple(_spec(kind, reference, ids) for reference in edit.add), edit.remove)


def _spec(kind: str, reference: Reference, ids: dict[str, str]) -> dict[str, Any]:
    if reference.source not in ids:
        raise ConfigError(
            f"no such {kind}: {reference.source} (create it with "
            f"`docker {kind} create {reference.source} FILE`)"
        )
    return reference.spec(kind.capitalize(), ids[reference.source])


def _ids(api: APIClient, kind: str, names: Iterable[str]) -> dict[str, str]:
    # The filter matches prefixes, too.
    found = request(api, "GET", f"/{kind}s", filters={"name": sorted(names)})
    return {entry["Spec"]["Name"]: entry["ID"] for entry in found}
