"""Three managers: the command on any node says what it can do there, and what it cannot."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from subprocess import CompletedProcess

import pytest
from waiting import eventually

from meshlb.lab import Lab
from meshlb.lab.image import IMAGE

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.environ.get("MESHLB_LONG") != "1", reason="two minutes: MESHLB_LONG=1 runs it"),
]
SOON = 60.0  # seconds for Raft to elect and for nodes to be noticed


@pytest.fixture(scope="module")
def swarm(machine: None) -> Iterator[Lab]:
    """A Swarm that may be broken: the session's own lab must not be."""
    with Lab.up(3, name=f"test-{os.getpid()}-managers") as lab:
        yield lab


def on(lab: Lab, node: int, *words: str) -> CompletedProcess[str]:
    """The command on a node, counted from 1."""
    command = [sys.executable, "-m", "meshlb", *words]
    return lab.nodes[node - 1].run(command, check=False, timeout=SOON)


def roles(lab: Lab, node: int) -> dict[str, str]:
    """What a node says of all nodes as managers."""
    shown = on(lab, node, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}").stdout
    return {name: role for name, _, role in (line.partition(" ") for line in shown.splitlines())}


def test_from_one_manager_to_three(swarm: Lab) -> None:
    assert on(swarm, 1, "node", "promote", "node2", "node3").returncode == 0
    three = {"node1": "Leader", "node2": "Reachable", "node3": "Reachable"}
    eventually(lambda: roles(swarm, 3) == three, timeout=SOON, what="three managers")

    assert on(swarm, 2, "node", "demote", "node3").returncode == 0
    eventually(lambda: on(swarm, 3, "node", "ls").returncode == 1, timeout=SOON, what="a worker")
    eventually(
        lambda: "not a swarm manager" in on(swarm, 3, "node", "ls").stderr, timeout=SOON, what="its words"
    )
    said = on(swarm, 3, "node", "ls").stderr
    assert all(swarm.nodes[number].address in said for number in (0, 1)), said
    assert "Is Manager: false" in on(swarm, 3, "info").stdout

    assert on(swarm, 2, "node", "promote", "node3").returncode == 0
    eventually(lambda: roles(swarm, 3) == three, timeout=SOON, what="three managers again")


def test_the_leader_is_lost_then_the_majority(swarm: Lab) -> None:
    """Of the three that the test before has made."""
    swarm.kill(swarm.nodes[0])
    eventually(lambda: "Leader" in roles(swarm, 3).values(), timeout=SOON, what="a new leader")
    made = on(swarm, 3, "service", "create", "-d", "--no-resolve-image", "--name", "web", IMAGE)
    assert made.returncode == 0, made.stderr
    assert "web" in on(swarm, 2, "service", "ls").stdout
    eventually(lambda: roles(swarm, 3).get("node1") == "Unreachable", timeout=SOON, what="the loss")
    swarm.kill(swarm.nodes[1])
    eventually(lambda: on(swarm, 3, "service", "ls").returncode == 1, timeout=SOON, what="no majority")
    assert "the swarm has no leader, because too few of its managers" in on(swarm, 3, "service", "ls").stderr
    assert "Is Manager: true" in on(swarm, 3, "info").stdout
