"""Nodes with an address for their data alone: gossip calls them by that, and agents know who they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import Agent
from docker_cli import docker
from waiting import eventually

from meshlb.lab import Lab, Node
from meshlb.lab.image import IMAGE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

SOON = 60.0


@pytest.fixture(scope="module")
def swarm(machine: None) -> Iterator[Lab]:
    """A Swarm of two nodes, each with `--data-path-addr`."""
    with Lab.up(2, name=f"test-{os.getpid()}-data", swarm=False) as lab:
        one, two = lab.nodes
        _give_address(one, "172.31.99.1")
        _give_address(two, "172.31.99.2")
        listening = {"ListenAddr": "0.0.0.0:2377"}
        own = {"AdvertiseAddr": one.address, "DataPathAddr": "172.31.99.1"}
        one.engine.post("/swarm/init", listening | own)
        token = {"JoinToken": one.engine.get("/swarm")["JoinTokens"]["Worker"]}
        leader = {"RemoteAddrs": [f"{one.address}:2377"]}
        own = {"AdvertiseAddr": two.address, "DataPathAddr": "172.31.99.2"}
        two.engine.post("/swarm/join", listening | own | token | leader)
        yield lab


def _give_address(node: Node, address: str) -> None:
    [interface] = [
        line.split()[1]
        for line in node.run(["ip", "-o", "-4", "addr"]).stdout.splitlines()
        if f" {node.address}/" in line
    ]
    node.run(["ip", "addr", "add", f"{address}/24", "dev", interface])


def test_tasks_are_on_their_nodes(swarm: Lab, tmp_path: Path) -> None:
    options = ("--detach", "--quiet", "--name", "web", "--mode", "global", "-p", "80:8000")
    docker(swarm, "service", "create", *options, IMAGE)
    agents = [Agent(node, tmp_path / f"{node.name}.log") for node in swarm.nodes]
    both = {node.address for node in swarm.nodes}

    def on(agent: Agent) -> set[str]:
        found = agent.status().get("services", [])
        return {address for address in both if agent.states_on("web", address) == ["up"]} if found else set()

    try:
        for agent in agents:
            eventually(lambda agent=agent: on(agent) == both, timeout=SOON, what="a task on each node")  # type: ignore[misc]
    finally:
        codes = [agent.stop() for agent in agents]
    assert codes == [0, 0]
