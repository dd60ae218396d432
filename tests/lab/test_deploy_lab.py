"""The agent as a global service: on every node, on one that joins later, updated, killed, and taken away."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from subprocess import CompletedProcess

import agent_image
import pytest
from load import EchoHold, Load
from waiting import eventually

from meshlb.lab import Lab, Node
from meshlb.lab.image import IMAGE

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("MESHLB_LONG") != "1", reason="five minutes: MESHLB_LONG=1 runs it"),
]
SOON = 90.0  # seconds for Swarm to start tasks, and for Docker to look at their health every ten
SERVICE = "meshlb-agent"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return agent_image.packed(agent_image.made(tmp_path_factory.mktemp("image")))


@pytest.fixture(scope="module")
def swarm(machine: None, image: bytes) -> Iterator[Lab]:
    """A Swarm of node1 and node2; node3 is in none yet, and only node1 has the agent's image."""
    with Lab.up(3, name=f"test-{os.getpid()}-deploy", swarm=False) as lab:
        agent_image.bring(lab.nodes[0], image)
        begun = on(lab.nodes[0], "init", "--advertise-addr", lab.nodes[0].address)
        assert begun.returncode == 0, begun.stderr
        join(lab, lab.nodes[1])
        yield lab


def on(node: Node, *words: str) -> CompletedProcess[str]:
    """The command on a node."""
    return node.run([sys.executable, "-m", "meshlb", *words], check=False, timeout=SOON * 2)


def join(lab: Lab, node: Node) -> None:
    token = on(lab.nodes[0], "join-token", "-q", "worker").stdout.strip()
    joined = on(node, "join", "--token", token, f"{lab.nodes[0].address}:2377")
    assert joined.returncode == 0, joined.stderr


def answers(node: Node) -> str:
    """The container that answers at a node's port 80; empty when none does."""
    try:
        with urllib.request.urlopen(f"http://{node.address}/", timeout=5) as answer:
            return str(answer.readline().decode().strip())
    except OSError:
        return ""


def both_answer(node: Node) -> bool:
    return len({answers(node) for _ in range(2)} - {""}) == 2


def hears_one(node: Node) -> bool:
    return "Other agents: 1 of 1 heard" in on(node, "agent", "status").stdout


def running(lab: Lab) -> list[str]:
    """The nodes on which the agent's task is healthy, one for each task."""
    shown = (
        "service",
        "ps",
        SERVICE,
        "--filter",
        "desired-state=running",
        "--format",
        "{{.Node}} {{.CurrentState}}",
    )
    return sorted(line.split()[0] for line in docker(lab, *shown).splitlines() if " Running" in line)


def docker(lab: Lab, *words: str) -> str:
    return lab.nodes[0].run(["docker", *words], timeout=SOON * 2).stdout


def test_a_node_without_the_image_is_named(swarm: Lab, image: bytes) -> None:
    said = on(swarm.nodes[0], "agent", "deploy")
    assert said.returncode == 1
    assert "the agent does not run on node2: No such image: localhost/meshlb-agent" in said.stderr.replace(
        "\n", " "
    )
    assert "docker save localhost/meshlb-agent" in said.stderr
    agent_image.bring(swarm.nodes[1], image)
    eventually(lambda: running(swarm) == ["node1", "node2"], timeout=SOON, what="the agent on both nodes")
    again = on(swarm.nodes[0], "agent", "deploy")
    assert again.returncode == 0, again.stderr
    assert "Service meshlb-agent unchanged." in again.stdout
    assert "The agent runs on every node" in again.stdout


def test_whoever_may_ask_docker_may_ask_it(swarm: Lab) -> None:
    stat = ["stat", "-L", "-c", "%G %a", "/run/docker.sock", "/run/meshlb", "/run/meshlb/agent.sock"]
    engine, folder, own = swarm.nodes[0].run(stat).stdout.splitlines()
    assert own == engine == f"{folder.split()[0]} 660"
    assert folder.split()[0] != "root"


def test_it_serves_and_does_what_it_is_told(swarm: Lab) -> None:
    docker(
        swarm,
        "service",
        "create",
        "-q",
        "--name",
        "web",
        "-p",
        "80:8000",
        "-p",
        "9000:9000",
        "--replicas",
        "2",
        IMAGE,
    )
    for node in swarm.nodes[:2]:
        eventually(partial(both_answer, node), timeout=SOON, what="both tasks")
        eventually(partial(hears_one, node), timeout=SOON, what="the channel, with Swarm's certificates")
    status = json.loads(on(swarm.nodes[1], "agent", "status", "--format", "json").stdout)
    assert {port["state"] for port in status["ports"]} <= {"serving", "redirected"}
    assert status["problems"] == []
    assert on(swarm.nodes[1], "drain", "web.1").returncode == 0  # by the agent's socket on the node
    assert len({answers(swarm.nodes[1]) for _ in range(6)}) == 1
    assert on(swarm.nodes[1], "undrain", "web.1").returncode == 0


def test_a_node_that_joins_has_it_by_itself(swarm: Lab, image: bytes) -> None:
    agent_image.bring(swarm.nodes[2], image)
    join(swarm, swarm.nodes[2])
    eventually(partial(both_answer, swarm.nodes[2]), timeout=SOON, what="answers")
    eventually(lambda: len(running(swarm)) == 3, timeout=SOON, what="the third task")


def test_an_update_fails_no_connection(swarm: Lab) -> None:
    """Those that are open go on in the agent before, as long as its task may."""
    addresses = [node.address for node in swarm.nodes]
    before = tasks(swarm)
    with Load([f"{each}:80" for each in addresses], rate=20, seconds=400) as load:
        with EchoHold(*(f"{each}:9000" for each in addresses), count=6, seconds=400) as held:
            docker(
                swarm,
                "service",
                "update",
                "--detach",
                "--args",
                "--drain 60",
                "--stop-grace-period",
                "75s",
                SERVICE,
            )
            first = lambda: len(tasks(swarm) - before) == 1 and len(running(swarm)) == 3  # noqa: E731
            eventually(first, timeout=SOON, what="the first new task")
            kept = held.stop()
        all_new = lambda: not tasks(swarm) & before and len(running(swarm)) == 3  # noqa: E731
        eventually(all_new, timeout=SOON * 3, what="the new tasks")
        report = load.stop()
    print(f"update: {report.succeeded} connections, {report.failed} failed, slowest {report.slowest:.3f} s")
    assert report.failures == []
    assert (kept.failures, kept.open_at_end) == ([], 6)


def tasks(lab: Lab) -> set[str]:
    shown = docker(lab, "service", "ps", SERVICE, "-q", "--no-trunc", "--filter", "desired-state=running")
    return set(shown.split())


def test_one_that_is_killed_is_back_before_anybody_is_refused(swarm: Lab) -> None:
    node = swarm.nodes[1]
    before = serving(node)
    assert before
    with Load([f"{node.address}:80"], rate=50, seconds=100) as load:
        node.run(["kill", "-9", str(before)])
        eventually(lambda: serving(node) not in (0, before), timeout=SOON, what="another agent")
        eventually(lambda: answers(node), timeout=SOON, what="its answers")
        report = load.stop()
    print(f"kill: {report.succeeded} connections, {report.reasons()}")
    assert set(report.reasons()) <= {"reset", "closed", "short answer"}  # those that it had itself
    assert len(running(swarm)) == 3


def serving(node: Node) -> int:
    """The process that serves below a keeper in this node, by the node's own numbers; 0 for none."""
    command = (
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline | grep -q '^[^ ]*python3 [^ ]*/meshlb-agent' "
        "&& echo ${p#/proc/}; done"
    )
    said = node.run(["sh", "-c", command], check=False).stdout
    return max(map(int, said.split()), default=0)


def test_nothing_is_left(swarm: Lab) -> None:
    ended = on(swarm.nodes[0], "agent", "undeploy")
    assert ended.returncode == 0, ended.stderr
    assert (
        "Removed service meshlb-agent: each node's agent ends with its connections, after 75 s"
        in ended.stdout
    )
    for node in swarm.nodes:
        eventually(lambda: not left(node), timeout=SOON * 2, what=f"the end; there is {left(node)}")  # noqa: B023
    again = on(swarm.nodes[0], "agent", "undeploy")
    assert (again.returncode, "no such service: meshlb-agent" in again.stderr) == (1, True)


def left(node: Node) -> str:
    """What a node still has of the agent."""
    looks = (
        "docker ps -a -q --filter label=com.docker.swarm.service.name=meshlb-agent",
        "ls -d /run/meshlb",
        "nft list tables | grep meshlb",
        "docker volume ls -q",
    )
    return node.run(["sh", "-c", "; ".join(looks)], check=False).stdout
