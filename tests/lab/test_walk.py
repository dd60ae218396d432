"""The walk that a user makes: a swarm begun, joined, used and left with `meshlb`, and seen by docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from ages import without_ages
from waiting import eventually

from meshlb.lab import IMAGE, Lab, Node

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MESHLB = [sys.executable, "-m", "meshlb"]
ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def machines(machine: None) -> Iterator[Lab]:
    """Three machines with Docker and nothing else: no swarm yet."""
    with Lab.up(3, name=f"test-{os.getpid()}-walk", swarm=False) as lab:
        yield lab


def meshlb(node: Node, *words: str, timeout: float = 120) -> CompletedProcess[str]:
    """`meshlb` as typed on that machine, whether it fails or not."""
    command = ["env", f"PYTHONPATH={ROOT}", *MESHLB, *words]
    return node.run(command, check=False, timeout=timeout)


def said(node: Node, *words: str) -> str:
    """What `meshlb` prints; it must succeed."""
    done = meshlb(node, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def docker(node: Node, *words: str) -> str:
    return node.run(["docker", *words], timeout=60).stdout


def same(node: Node, *words: str) -> bool:
    """Whether docker prints the same, to the space but for what follows ages."""
    return without_ages(said(node, *words)) == without_ages(docker(node, *words))


@pytest.fixture(scope="module")
def swarm(machines: Lab) -> Lab:
    """Steps 1 and 2: the printed line itself is what joins the others."""
    first, *others = machines.nodes
    printed = said(first, "init")
    assert re.match(r"Swarm initialized: current node \((\w{25})\) is now a manager\.\n", printed)
    line = next(line.strip() for line in printed.splitlines() if " join " in line)
    assert re.fullmatch(rf"meshlb join --token SWMTKN-1-\S+ {first.address}:2377", line)
    for node in others:
        assert said(node, *shlex.split(line)[1:]) == "This node joined a swarm as a worker.\n"
    eventually(
        lambda: docker(first, "node", "ls", "--format", "{{.Status}}").split() == ["Ready"] * 3,
        timeout=60,
        what="three nodes to be ready",
    )
    return machines


def test_before_the_swarm(machines: Lab) -> None:
    """It runs before the fixture `swarm` is first asked for."""
    node = machines.nodes[2]
    outside = meshlb(node, "service", "ls")
    assert outside.returncode == 1
    assert outside.stderr.startswith(
        "meshlb: this node is not part of a swarm: create one with `meshlb init`"
    )
    assert "Swarm: inactive\n" in said(node, "info")
    refused = meshlb(node, "join", "--token", "foo", f"{machines.nodes[0].address}:2377")
    assert refused.returncode == 1
    assert "the join token is not valid" in refused.stderr


def test_what_the_nodes_know(swarm: Lab) -> None:
    manager, worker = (json.loads(said(node, "info", "--format", "json")) for node in swarm.nodes[:2])
    assert (manager["Swarm"]["IsManager"], worker["Swarm"]["IsManager"]) == (True, False)
    assert (manager["Swarm"]["Managers"], manager["Swarm"]["Nodes"]) == (1, 3)
    assert (worker["Swarm"]["Managers"], worker["Swarm"]["Nodes"]) == (None, None)
    assert worker["Swarm"]["NodeAddr"] == swarm.nodes[1].address
    assert worker["Swarm"]["ManagerAddresses"] == [f"{swarm.nodes[0].address}:2377"]
    assert (manager["Name"], worker["Name"]) == ("node1", "node2")
    token = said(swarm.nodes[0], "join-token", "-q", "worker").split("-")[2]
    assert manager["Swarm"]["CACertHash"] == f"sha256:{int(token, 36):064x}"
    assert worker["Swarm"]["CACertHash"] == manager["Swarm"]["CACertHash"]


def test_a_worker_says_where_the_manager_is(swarm: Lab) -> None:
    for words in (["service", "ls"], ["node", "ls"], ["join-token", "worker"]):
        refused = meshlb(swarm.nodes[1], *words)
        assert refused.returncode == 1
        assert refused.stderr.endswith(f"run this on a manager ({swarm.nodes[0].address})\n")
    assert "is already part of a swarm" in meshlb(swarm.nodes[1], "init").stderr


def test_the_service_and_docker_s_view_of_it(swarm: Lab) -> None:
    manager = swarm.nodes[0]
    created = meshlb(manager, "service", "create", "--name", "whoami", "-p", "80:8000", IMAGE)
    assert created.returncode == 0, created.stderr
    lines = created.stdout.splitlines()
    assert re.fullmatch(r"\w{25}", lines[0])
    assert "overall progress: 1 out of 1 tasks" in lines
    assert lines[-1] == "verify: Service whoami converged"
    scaled = said(manager, "service", "scale", "whoami=5").splitlines()
    assert scaled[0] == "whoami scaled to 5"
    assert "overall progress: 5 out of 5 tasks" in scaled
    for words in (
        ["node", "ls"],
        ["node", "ls", "-q"],
        ["service", "ls"],
        ["service", "ls", "-q"],
        ["service", "ls", "--format", "{{.Name}} {{.Replicas}} {{.Ports}}"],
        ["service", "ps", "whoami"],
        ["service", "ps", "--no-trunc", "whoami"],
        ["service", "ps", "-q", "whoami"],
        ["service", "inspect", "whoami"],
    ):
        assert same(manager, *words), words
    assert docker(manager, "service", "ls", "--format", "{{.Ports}}") == "*:80->8000/tcp\n"
    counted = [len(docker(node, "ps", "-q").split()) for node in swarm.nodes]
    assert sum(counted) == 5


def test_mistakes_are_one_sentence(swarm: Lab) -> None:
    manager = swarm.nodes[0]
    for words, says in (
        (
            ["service", "create", "--name", "other", "-p", "80:8000", IMAGE],
            "already published by service whoami",
        ),
        (["service", "create", "--name", "whoami", IMAGE], "a service named whoami exists already"),
        (["service", "create", "-d", "--network", "nowhere", IMAGE], "no such network: nowhere"),
        (["service", "scale", "nope=2"], "no such service: nope"),
        (["service", "rm", "nope"], "no such service: nope"),
        (["leave"], "this node is the swarm's last manager"),
    ):
        refused = meshlb(manager, *words)
        assert refused.returncode == 1, words
        last = refused.stderr.splitlines()[-1]
        assert last.startswith("meshlb: "), refused.stderr
        assert says in last


def test_an_image_that_does_not_exist(swarm: Lab) -> None:
    manager = swarm.nodes[0]
    with manager.popen(
        ["env", f"PYTHONPATH={ROOT}", *MESHLB, "service", "create", "--name", "ghost", "nosuch/image"],
        stdout=-1,
        stderr=-1,
    ) as child:
        assert child.stdout
        assert child.stderr
        for line in child.stdout:
            if line == "1/1: No such image: nosuch/image:latest\n":
                break
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert child.returncode == 0
    assert "could not be accessed on a registry" in errors
    assert "Operation continuing in background.\nUse `meshlb service ps " in errors
    assert '"No such image: nosuch/image:l…"' in said(manager, "service", "ps", "ghost")
    assert said(manager, "service", "rm", "ghost") == "ghost\n"


def test_a_node_leaves_and_its_tasks_move(swarm: Lab) -> None:
    """The last test: the swarm has one node less afterwards."""
    manager, leaver = swarm.nodes[0], swarm.nodes[2]
    said(manager, "service", "scale", "whoami=4")
    assert said(leaver, "leave") == "Node left the swarm.\n"
    assert "Swarm: inactive\n" in said(leaver, "info")

    def moved() -> bool:
        rows = said(manager, "service", "ps", "-f", "desired-state=running", "whoami").splitlines()[1:]
        return len(rows) == 4 and all("Running " in row and " node3 " not in row for row in rows)

    eventually(moved, timeout=60, what="the tasks of node3 to move")
    assert re.search(r"node3 +Down", said(manager, "node", "ls"))
    assert docker(leaver, "ps", "-q") == ""
