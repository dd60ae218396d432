"""The swarm's nodes, as its managers know them."""

from __future__ import annotations

# types-docker leaves the SDK's methods for services without types:
# mypy: allow-untyped-calls
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import docker.errors

from meshlb.cluster.client import APIClient, request, verb
from meshlb.cluster.listing import TaskRow, task_rows
from meshlb.cluster.lists import NOTHING, Edit
from meshlb.cluster.order import natural
from meshlb.cluster.units import pair
from meshlb.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node. `manager` is empty for a worker, else Leader, Reachable or Unreachable."""

    id: str
    name: str
    status: str
    availability: str
    manager: str
    engine: str
    itself: bool
    tls: str = "Unknown"  # Ready, or Needs Rotation when its certificate is not of the swarm's root


@verb
def ls(api: APIClient, filters: dict[str, list[str]] | None = None) -> list[NodeRow]:
    """All nodes that pass the filters, by name. `itself` is the node that answers."""
    swarm = api.info().get("Swarm") or {}
    own, root = str(swarm.get("NodeID") or ""), (swarm.get("Cluster") or {}).get("TLSInfo") or {}
    rows = [row(node, own, root) for node in api.nodes(filters=filters or {})]
    return sorted(rows, key=lambda node: natural(node.name))


def row(node: dict[str, Any], own: str, root: dict[str, Any] | None = None) -> NodeRow:
    """A node of the engine's JSON as a row (pure)."""
    manager = node.get("ManagerStatus") or {}
    description = node.get("Description") or {}
    return NodeRow(
        id=node["ID"],
        name=description.get("Hostname", ""),
        status=str((node.get("Status") or {}).get("State", "")).capitalize(),
        availability=str(node["Spec"].get("Availability", "")).capitalize(),
        manager="Leader" if manager.get("Leader") else str(manager.get("Reachability", "")).capitalize(),
        engine=(description.get("Engine") or {}).get("EngineVersion", ""),
        itself=node["ID"] == own,
        tls=_tls(description.get("TLSInfo") or {}, root or {}),
    )


def _tls(held: dict[str, Any], root: dict[str, Any]) -> str:
    if not root or not held.get("TrustRoot"):
        return "Unknown"
    keys = ("TrustRoot", "CertIssuerSubject", "CertIssuerPublicKey")
    return "Ready" if all(held.get(key) == root.get(key) for key in keys) else "Needs Rotation"


def names(nodes: list[dict[str, Any]]) -> dict[str, str]:
    """The nodes' names by their ids (pure)."""
    return {
        node["ID"]: node["Spec"].get("Name") or (node.get("Description") or {}).get("Hostname") or node["ID"]
        for node in nodes
    }


@verb
def inspect(api: APIClient, name: str) -> dict[str, Any]:
    """A node, as the engine's JSON has it; `self` is the one that answers."""
    return dict(api.inspect_node(id_of(api, name)))


def id_of(api: APIClient, name: str) -> str:
    """A node's name or id as it is, and the id of the one that answers for `self`."""
    if name != "self":
        return name
    own = str((api.info().get("Swarm") or {}).get("NodeID") or "")
    # Outside of a swarm there is no own id; the list of nodes then says why.
    return own or str(api.nodes()[0]["ID"])


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChange:
    """What to change of a node; None and empty leave things alone."""

    role: str | None = None
    availability: str | None = None
    labels: Edit = NOTHING


@verb
def update(api: APIClient, name: str, change: NodeChange) -> bool:
    """Changes a node; whether there was anything to change."""
    node = api.inspect_node(id_of(api, name))
    spec = changed(node["Spec"], change)
    if spec == node["Spec"]:
        return False
    query = {"version": str(node["Version"]["Index"])}
    request(api, "POST", f"/nodes/{node['ID']}/update", body=spec, query=query)
    return True


def changed(spec: dict[str, Any], change: NodeChange) -> dict[str, Any]:
    """A copy of a node's specification with the change made (pure)."""
    labels = spec.get("Labels") or {}
    missing = [label for label in change.labels.remove if label not in labels]
    if missing:
        raise ConfigError(f'the node has no label "{missing[0]}": it has {", ".join(labels) or "none"}')
    kept = {label: value for label, value in labels.items() if label not in change.labels.remove}
    made = {**spec, "Labels": kept | dict(pair(text, "label") for text in change.labels.add)}
    if not made["Labels"] and not labels:
        made = dict(spec)
    return (
        made
        | ({"Role": change.role} if change.role else {})
        | ({"Availability": change.availability} if change.availability else {})
    )


@verb
def rm(api: APIClient, name: str, force: bool) -> None:
    """Takes a node that has left, or is down, out of the list; by force also one that is not."""
    request(api, "DELETE", f"/nodes/{name}", query={"force": "true"} if force else None)


@verb
def ps(
    api: APIClient,
    names_: Iterable[str],
    filters: dict[str, list[str]] | None = None,
    *,
    resolve: bool = True,
) -> tuple[list[TaskRow], tuple[str, ...]]:
    """The tasks of nodes, and a sentence for each node that is not there."""
    ids, problems = [], []
    for name in names_:
        try:
            ids.append(str(api.inspect_node(id_of(api, name))["ID"]))
        except docker.errors.NotFound:
            problems.append(f"no such node: {name} (`meshlb node ls` lists them)")
    if not ids:
        return [], tuple(problems)
    tasks = api.tasks(filters={**(filters or {}), "node": ids})
    services = {one["ID"]: one["Spec"]["Name"] for one in api.services()} if resolve else {}
    return task_rows(tasks, services, names(api.nodes()) if resolve else {}), tuple(problems)
