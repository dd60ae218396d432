"""The lab's nodes become one Swarm: init on the first, join on the others, until all are ready."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from meshlb.errors import LabError
from meshlb.lab.node import Node

PORT = 2377
READY_SECONDS = 60.0


def form(nodes: Sequence[Node], managers: int) -> None:
    """Make one Swarm of all nodes. Nodes that are in one already stay as they are."""
    states = {node.name: local_state(node) for node in nodes}
    if not any(state == "active" for state in states.values()):
        address = nodes[0].address
        nodes[0].engine.post("/swarm/init", {"ListenAddr": f"0.0.0.0:{PORT}", "AdvertiseAddr": address})
        states[nodes[0].name] = "active"
    leader = next((node for node in nodes if _info(node)["ControlAvailable"]), None)
    if leader is None:
        raise LabError(
            "no manager of the lab's swarm answers; start over with: meshlb lab down, meshlb lab up"
        )
    tokens = leader.engine.get("/swarm")["JoinTokens"]
    for number, node in enumerate(nodes):
        if states[node.name] == "inactive":
            _join(node, leader, tokens["Manager" if number < managers else "Worker"])
    _wait_ready(leader, nodes)


def _join(node: Node, leader: Node, token: str) -> None:
    request = {
        "ListenAddr": f"0.0.0.0:{PORT}",
        "AdvertiseAddr": node.address,
        "RemoteAddrs": [f"{leader.address}:{PORT}"],
        "JoinToken": token,
    }
    node.engine.post("/swarm/join", request)


def _wait_ready(leader: Node, nodes: Sequence[Node]) -> None:
    wanted = {_info(node)["NodeID"] for node in nodes}
    deadline = time.monotonic() + READY_SECONDS
    while not wanted <= {
        seen["ID"] for seen in leader.engine.get("/nodes") if seen["Status"]["State"] == "ready"
    }:
        if time.monotonic() > deadline:
            raise LabError(f"the lab's swarm is not ready after {READY_SECONDS:g} s; see {leader.log}")
        time.sleep(0.05)


def local_state(node: Node) -> str:
    """Swarm's word for a node: inactive, pending, active, error, locked."""
    return str(_info(node)["LocalNodeState"])


def role(node: Node) -> str:
    """What a node is in its Swarm: manager, worker, or the state that keeps it from being either."""
    info = _info(node)
    if info["LocalNodeState"] != "active":
        return str(info["LocalNodeState"])
    return "manager" if info["ControlAvailable"] else "worker"


def _info(node: Node) -> dict[str, Any]:
    swarm: dict[str, Any] = node.engine.get("/info")["Swarm"]
    return swarm
