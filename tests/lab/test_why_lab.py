"""Made-up breakages on a real Swarm: `meshlb why` and `doctor` say what is broken, and what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from agents import Agents
from docker_cli import docker
from waiting import eventually

from meshlb.lab import Lab, Node
from meshlb.lab.image import IMAGE

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.environ.get("MESHLB_LONG") != "1", reason="minutes: MESHLB_LONG=1 runs it"),
]
SOON = 90.0  # seconds


@pytest.fixture(scope="module")
def agents(machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """A Swarm that may be broken, with its agents: the session's own must not be."""
    with Lab.up(3, name=f"test-{os.getpid()}-why") as lab:
        agents = Agents(lab, tmp_path_factory.mktemp("why"))
        try:
            agents.start()
            create(lab, "web", "-p", "80:8000", "--mode", "global")
            yield agents
        finally:
            agents.stop()


def create(lab: Lab, name: str, *options: str, image: str = IMAGE) -> None:
    docker(lab, "service", "create", "-d", "-q", "--no-resolve-image", "--name", name, *options, image)


def meshlb(node: Node, *words: str) -> str:
    """What the command says on a node."""
    return node.run([sys.executable, "-m", "meshlb", *words], check=False, timeout=SOON).stdout


def says(node: Node, verb: str, *sentences: str) -> None:
    """Until all of them are in what a verb says there."""
    said = ""

    def found() -> bool:
        nonlocal said
        said = meshlb(node, *verb.split())
        return all(sentence in said for sentence in sentences)

    try:
        eventually(found, timeout=SOON, what=f"`meshlb {verb}` on {node.name} to say {sentences}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it says\n{said}") from None
    print(f"\n{node.name}# meshlb {verb}\n{said}")  # looked at with pytest -s


@contextmanager
def rule(node: Node, *words: str) -> Iterator[None]:
    """A rule of the node's firewall, for as long as it lasts."""
    node.run(["iptables", "-I", *words])
    try:
        yield
    finally:
        node.run(["iptables", "-D", *words])


def test_nothing_is_broken(agents: Agents) -> None:
    one, _, three = agents.lab.nodes
    says(
        one,
        "why 80",
        "port 80/tcp of service web is served by the agent",
        "; it answers in ",
        "is accepted in ",
    )
    says(one, f"why {three.address}:80", "is node3, another node", "is accepted in ")
    assert "BAD" not in meshlb(one, "why", "80")


def test_a_port_that_is_not_published(agents: Agents) -> None:
    says(
        agents.lab.nodes[0],
        "why 81",
        "no service publishes port 81/tcp through the routing mesh; published are: 80/tcp",
        "--publish-add 81:TARGET",
        "Connection refused",
    )


def test_the_wrong_protocol(agents: Agents) -> None:
    says(
        agents.lab.nodes[1],
        "why 80/udp",
        "no service publishes port 80/udp",
        "80/tcp is published: `meshlb why",
    )


def test_no_task_runs(agents: Agents) -> None:
    one, two, _ = agents.lab.nodes
    create(agents.lab, "stuck", "-p", "82:8000", "--constraint", "node.labels.nowhere==1")
    create(agents.lab, "ghost", "-p", "83:8000", image="nosuch/image")
    create(agents.lab, "none", "-p", "84:8000", "--replicas", "0")
    says(one, "why 82", "no task of service stuck runs", "no suitable node", "reset at once")
    says(one, "why 83", "no task of service ghost runs", "No such image: nosuch/image")
    says(one, "why 84", "it is scaled to 0 tasks: meshlb service scale none=1")
    says(two, "why 82", "`docker service ps stuck`, on a manager, tells why")  # a worker


def test_an_unhealthy_task(agents: Agents) -> None:
    """Its server ends well when it is told to, so that Swarm itself forgets why it was."""
    check = ("--health-cmd", "echo 503; false", "--health-interval", "1s", "--health-retries", "1")
    here = ("--constraint", "node.hostname==node1")
    create(agents.lab, "sick", "-p", "85:8000", *check, *here, "--restart-condition", "none")
    says(
        agents.lab.nodes[0],
        "why 85",
        "no task of service sick runs",
        "its server ended without an error, or unhealthy; Swarm starts no other",
        "here, was unhealthy: its check ended with 1 and said: 503",
    )


def test_a_backend_that_refuses(agents: Agents) -> None:
    create(agents.lab, "deaf", "-p", "86:9999")
    says(
        agents.lab.nodes[0],
        "why 86",
        "a connection to it: Connection refused",
        "nothing in the task listens on port 9999",
        "no backend answered",
    )


def test_published_without_the_mesh(agents: Agents) -> None:
    create(
        agents.lab, "host", "-p", "target=8000,published=87,mode=host", "--constraint", "node.hostname==node2"
    )
    says(agents.lab.nodes[0], "why 87", "service host publishes it with mode=host")


def test_another_process_has_the_port(agents: Agents) -> None:
    one = agents.lab.nodes[0]
    holder = one.popen([sys.executable, "-m", "http.server", "88"], stdout=-3, stderr=-3)
    try:
        eventually(
            lambda: one.run(["curl", "-s", "127.0.0.1:88"], check=False).returncode == 0,
            timeout=SOON,
            what="it",
        )
        create(agents.lab, "late", "-p", "88:8000")
        says(one, "why 88", "port 88/tcp of service late is not served: port 88/tcp is held by python")
        says(one, "doctor", "port 88/tcp of service late: ", "`meshlb why 88/tcp`")
    finally:
        holder.kill()
        holder.wait()


def test_an_operator_s_order(agents: Agents) -> None:
    one = agents.lab.nodes[0]
    task = meshlb(one, "ps", "--filter", "port=80", "--format", "{{.Task}}").split()[0]
    assert "is drained" in meshlb(one, "drain", task)
    says(one, "why 80", f"({task} on node", "is drained", f"`meshlb undrain {task}` takes it back")
    meshlb(one, "undrain", task)


def test_a_firewall_drops_the_port(agents: Agents) -> None:
    one, two, _ = agents.lab.nodes
    with rule(one, "INPUT", "-p", "tcp", "--dport", "80", "!", "-i", "lo", "-j", "DROP"):
        says(one, "why 80", "a rule of this node's firewall drops 80/tcp", "is accepted in ")
        says(two, f"why {one.address}:80", "no answer in 3 s", "Is there a firewall, there or between?")
    with rule(one, "INPUT", "-i", "lo", "-j", "ACCEPT"):
        one.run(["iptables", "-P", "INPUT", "DROP"])
        try:
            says(one, "why 80", "this node's firewall drops what no rule accepts, and none names 80/tcp")
        finally:
            one.run(["iptables", "-P", "INPUT", "ACCEPT"])


def test_the_overlay_is_blocked(agents: Agents) -> None:
    one, _, three = agents.lab.nodes
    with rule(three, "INPUT", "-p", "udp", "--dport", "4789", "-j", "DROP"):
        says(one, "why 80", "packets between here and node3 are lost", "4789/udp", "is accepted in ")
        says(one, "doctor", f"{three.address} 4789/udp (containers' traffic): an echo", "gets no answer")


def test_the_gossip_is_blocked(agents: Agents) -> None:
    one, _, three = agents.lab.nodes
    with rule(three, "INPUT", "-p", "tcp", "--dport", "7946", "-j", "REJECT"):
        says(one, "doctor", f"{three.address} 7946/tcp (gossip): ")


def test_no_agent_runs(agents: Agents) -> None:
    one, two, _ = agents.lab.nodes
    agents.stop("node2")
    says(two, "why 80", "no agent answers at http://127.0.0.1:9377", "Connection refused")
    says(two, "doctor", "no agent answers at http://127.0.0.1:9377", "meshlb agent install")
    says(
        one, f"why {two.address}:80", f"no agent listens there ({two.address} 7947/tcp)", "Connection refused"
    )
    says(
        one,
        "doctor",
        f"{two.address} 7947/tcp (agents): Connection refused",
        "agents heard on other nodes: 1 of 2",
    )
    agents.start("node2")


def test_a_node_is_lost(agents: Agents) -> None:
    one, _, three = agents.lab.nodes
    agents.lab.cut(three)
    says(one, "why 80", "node node3 has fallen silent: its tasks get no connections", "is accepted in ")
    says(one, f"why {three.address}:80", "is node3, a node that has fallen silent", "no answer in 3 s")
    says(one, "doctor", "node node3 is down, as managers have it")
    agents.lab.heal(three)


def test_the_engine_is_gone(agents: Agents) -> None:
    two = agents.lab.nodes[1]
    says(two, "-H unix:///nowhere.sock doctor", "cannot connect to the Docker daemon at unix:///nowhere.sock")
