"""Nodes that fall silent, tasks that turn unhealthy, managers that are gone: what every agent makes of it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from agents import STATE_DIR, Agent
from docker_cli import Serve
from waiting import eventually

from meshlb.lab import Lab, Node

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

SOON = 1.0  # seconds that it may take; a busy machine gets three attempts
ATTEMPTS = 3
URL = "http://127.0.0.1:9377/api/v1/status"  # in the node: it may be cut


def status(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.run(["curl", "-sf", URL]).stdout)
    return found


def states(node: Node, service: str) -> list[str]:
    """The states of the service's backends as a node's agent has them, sorted."""
    services = [found for found in status(node)["services"] if found["name"] == service]
    return sorted(backend["state"] for found in services for backend in found["ports"][0]["backends"])


def said_at(agent: Agent, text: str, since: float) -> float | None:
    """When the agent has first said this, in seconds since the epoch."""
    for line in agent.said().splitlines():
        stamp, _, rest = line.partition(" ")
        if text in rest and (when := datetime.fromisoformat(stamp).timestamp()) >= since - 0.002:
            return when
    return None


def heard_of_each_other(lab: Lab) -> bool:
    return all(status(node)["channel"]["connected"] == len(lab.nodes) - 1 for node in lab.nodes)


@pytest.fixture(autouse=True)
def connected(lab: Lab, agents: dict[str, Agent]) -> Iterator[None]:
    """Every agent hears every other, before and after."""
    eventually(lambda: heard_of_each_other(lab), timeout=60, what="all agents to hear each other")
    yield
    eventually(lambda: heard_of_each_other(lab), timeout=90, what="all agents to hear each other again")


def once_soon(attempt: Callable[[], float]) -> None:
    """One of a few attempts takes no longer than it may; a machine that is busy for all of them fails."""
    took = []
    for _ in range(ATTEMPTS):
        took.append(attempt())
        if took[-1] < SOON:
            break
    print("took", *(f"{seconds:.3f}" for seconds in took))
    assert min(took) < SOON, took


def test_a_node_whose_cable_is_pulled_is_suspected_and_believed_again(
    lab: Lab, agents: dict[str, Agent], serve: Serve
) -> None:
    serve("web", "--replicas", "3", "-p", "80:8000")
    eventually(lambda: all(states(n, "web") == ["up"] * 3 for n in lab.nodes), timeout=60, what="three tasks")
    lost, others = lab.node("node3"), [agents["node1"], agents["node2"]]

    def suspicion() -> float:
        since = time.time()
        lab.cut(lost)
        try:
            text = f"{lost.address} are silent"
            eventually(lambda: all(said_at(a, text, since) for a in others), timeout=20, what=text)
            assert states(lab.node("node2"), "web") == ["suspected", "up", "up"]
        finally:
            healed = time.time()
            lab.heal(lost)
        back = f"{lost.address} are answering again"
        eventually(lambda: all(said_at(a, back, healed) for a in others), timeout=20, what=back)
        eventually(lambda: states(lab.node("node2"), "web") == ["up"] * 3, timeout=30, what="all three up")
        eventually(lambda: heard_of_each_other(lab), timeout=60, what="all agents to hear each other")
        seen = [(said_at(a, text, since) or 0) - since for a in others]
        seen += [(said_at(a, back, healed) or 0) - healed for a in others]
        print("suspected and back after", *(f"{seconds:.3f}" for seconds in seen))
        return max(seen)

    once_soon(suspicion)


def test_a_node_that_stays_silent_is_called_dead_and_left_out(
    lab: Lab, agents: dict[str, Agent], serve: Serve
) -> None:
    serve("web", "--replicas", "3", "-p", "80:8000")
    eventually(lambda: all(states(n, "web") == ["up"] * 3 for n in lab.nodes), timeout=60, what="three tasks")
    lost = lab.node("node3")
    since = time.time()
    lab.cut(lost)
    try:
        still = f"{lost.address} are still silent"
        eventually(lambda: said_at(agents["node1"], still, since), timeout=30, what=still)
        eventually(lambda: states(lab.node("node1"), "web") == ["up", "up"], timeout=30, what="two left")
        assert states(lost, "web") != [], "who is alone keeps what it has"
        assert "still silent" not in "".join(
            line for line in agents["node3"].said().splitlines() if line > _stamp(since)
        ), "when all others are silent, the cut is one's own"
    finally:
        lab.heal(lost)


def _stamp(since: float) -> str:
    return datetime.fromtimestamp(since).astimezone().isoformat()


def test_an_agent_that_ends_is_no_silence(lab: Lab, agents: dict[str, Agent], serve: Serve) -> None:
    serve("web", "--replicas", "3", "-p", "80:8000")
    eventually(lambda: all(states(n, "web") == ["up"] * 3 for n in lab.nodes), timeout=60, what="three tasks")
    since = time.time()
    for number in (signal.SIGKILL, signal.SIGTERM):
        agents["node3"].process.send_signal(number)
        agents["node3"].process.wait(30)
        eventually(
            lambda: status(lab.node("node1"))["channel"]["connected"] == 1,
            timeout=30,
            what="its end to be seen",
        )
        time.sleep(2)  # more than enough for a suspicion
        assert states(lab.node("node1"), "web") == ["up"] * 3
        agents["node3"] = Agent(lab.node("node3"), agents["node3"].log.with_suffix(f".{time.time()}"))
        eventually(agents["node3"].healthy, timeout=30, what="the next agent")
        eventually(lambda: heard_of_each_other(lab), timeout=60, what="all agents to hear each other")
    assert said_at(agents["node1"], "silent", since) is None


def test_an_unhealthy_task_is_taken_out_and_brought_back_on_all_nodes(
    lab: Lab, agents: dict[str, Agent], serve: Serve
) -> None:
    probe = ("--health-cmd", "test ! -e /sick", "--health-interval", "1s", "--health-retries", "3")
    serve("web", "--replicas", "2", "--constraint", "node.hostname==node3", "-p", "80:8000", *probe)
    node3 = lab.node("node3")
    well = ["docker", "ps", "-q", "-f", "health=healthy", "-f", "label=com.docker.swarm.service.name=web"]

    def sickness() -> float:
        eventually(
            lambda: all(states(n, "web") == ["up"] * 2 for n in lab.nodes), timeout=60, what="two tasks"
        )
        container, since = node3.run(well).stdout.split()[0], time.time()
        node3.run(["docker", "exec", container, "/bin/busybox", "touch", "/sick"])
        sick = "1 up, 1 draining"
        eventually(
            lambda: all(said_at(a, sick, since) for a in agents.values()),
            timeout=30,
            what="it to be taken out",
        )
        at = [said_at(agent, sick, since) or 0 for agent in agents.values()]
        return max(at) - min(at)

    once_soon(sickness)


def test_a_task_whose_health_is_not_known_yet_gets_no_traffic(lab: Lab, serve: Serve) -> None:
    """Swarm itself shows a task in its gossip once it is healthy, and not before."""
    probe = ("--health-cmd", "test -e /well", "--health-interval", "1s", "--health-start-period", "120s")
    serve("web", "--detach", "--constraint", "node.hostname==node3", "-p", "80:8000", *probe)
    node3 = lab.node("node3")
    shown = ["docker", "ps", "-q", "-f", "health=starting", "-f", "label=com.docker.swarm.service.name=web"]

    def starting() -> str:
        return node3.run(shown).stdout.strip()

    eventually(starting, timeout=60, what="a task that is starting")
    container = starting()
    for _ in range(5):
        assert all("up" not in states(node, "web") for node in lab.nodes)
        time.sleep(0.5)
    node3.run(["docker", "exec", container, "/bin/busybox", "touch", "/well"])
    eventually(
        lambda: all(states(n, "web") == ["up"] for n in lab.nodes), timeout=60, what="the healthy task"
    )


def test_policies_are_there_after_a_start_without_a_manager(
    lab: Lab, agents: dict[str, Agent], serve: Serve, tmp_path: Path
) -> None:
    serve("web", "-p", "80:8000", "-p", "53:9000/udp", "--label", "meshlb.balance=nonsense")
    node2 = lab.node("node2")

    def start(name: str, node: Node) -> None:
        agents[node.name] = Agent(node, tmp_path / f"{name}.log")
        eventually(agents[node.name].healthy, timeout=30, what=f"the agent of {node.name}")

    def informed() -> bool:
        document = status(node2)
        return "nonsense" in str(document["problems"]) and "53/udp" in str(document["ports"])

    def kept() -> bool:
        return node2.run(["grep", "nonsense", f"{STATE_DIR}/desired"], check=False).returncode == 0

    eventually(informed, timeout=30, what="what the manager tells")
    eventually(kept, timeout=30, what="the file")
    assert agents["node2"].stop() == 0
    assert agents["node1"].stop() == 0
    try:
        start("second", node2)
        eventually(informed, timeout=30, what="what the manager told")
        assert status(node2)["channel"]["heard"] <= 1, "of node3 alone"
        assert 'meshlb.balance: "nonsense"' in agents["node2"].said()
    finally:
        start("manager", lab.node("node1"))
