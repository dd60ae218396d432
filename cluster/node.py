"""The swarm's nodes, as its managers know them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshlb.cluster.client import APIClient, verb
from meshlb.cluster.order import natural


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


@verb
def ls(api: APIClient, filters: dict[str, list[str]] | None = None) -> list[NodeRow]:
    """All nodes that pass the filters, by name. `itself` is the node that answers."""
    own = str((api.info().get("Swarm") or {}).get("NodeID") or "")
    rows = [row(node, own) for node in api.nodes(filters=filters or {})]
    return sorted(rows, key=lambda node: natural(node.name))


def row(node: dict[str, Any], own: str) -> NodeRow:
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
    )


def names(nodes: list[dict[str, Any]]) -> dict[str, str]:
    """The nodes' names by their ids (pure)."""
    return {
        node["ID"]: node["Spec"].get("Name") or (node.get("Description") or {}).get("Hostname") or node["ID"]
        for node in nodes
    }
