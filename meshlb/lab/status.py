"""How the nodes of a lab are, for people to read."""

from __future__ import annotations

from dataclasses import dataclass

from meshlb.errors import LabError
from meshlb.lab import swarm
from meshlb.lab.node import Node


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One line of `meshlb lab status`."""

    name: str
    address: str
    state: str  # running | cut | off | engine down
    engine: str  # its version
    swarm: str  # manager | worker | inactive | …
    pid: int


def of(node: Node, *, link: bool) -> NodeStatus:
    """How a node is, whose link to the switch is as given."""
    init = node.init
    if init is None:
        return NodeStatus(node.name, node.address, "off", "", "", 0)
    try:
        version, role = str(node.engine.get("/version")["Version"]), swarm.role(node)
    except LabError:
        return NodeStatus(node.name, node.address, "engine down", "", "", init.pid)
    return NodeStatus(node.name, node.address, "running" if link else "cut", version, role, init.pid)
