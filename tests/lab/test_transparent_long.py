"""Clients' own addresses on a real Swarm: whatever happens to it, and whoever the client is."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agents import HTTP_PORT, Agents
from docker_cli import Serve, docker
from front import Meshlb
from load import Load, Report
from nginx_image import ensure, program
from pairs import echoes, mixed_up
from scenario import Stage
from waiting import eventually
from watch import Watch, containers

from meshlb.lab import Lab, Node

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.environ.get("MESHLB_LONG") != "1", reason="minutes: MESHLB_LONG=1 runs it"),
    pytest.mark.timeout(600),
]
WEB, WEB2, ECHO = 8096, 8097, 8098
LABEL = ("--label", "meshlb.client-address=transparent")
GRACEFUL = ("--stop-signal", "SIGQUIT")  # nginx's
REFUSE = ("--label", "meshlb.fallback=refuse")
NAME = "web"
PAIRS = 5_000
ASK = """
import socket, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
said = b""
while more := client.recv(999):
    said += more
print(client.getsockname()[0], said.split(b"\\r\\n\\r\\n")[-1].decode().strip())
"""


RESOLVE = """
import socket, struct, sys
name = sys.argv[1].encode()
with socket.socket(type=socket.SOCK_DGRAM) as client:
    client.settimeout(5)
    label = bytes([len(name)]) + name + bytes(1)
    question = struct.pack("!6H", 1, 256, 1, 0, 0, 0) + label + struct.pack("!HH", 1, 1)
    client.sendto(question, ("127.0.0.11", 53))
    print(socket.inet_ntoa(client.recv(512)[-4:]))
"""


@pytest.fixture(scope="module")
def nginx(lab: Lab) -> str:
    path = program()
    if path is None:
        pytest.skip("no nginx here: apt-get install nginx-light")
    return ensure(lab, path)


@pytest.fixture
def stage(lab: Lab, running_agents: Agents, tmp_path: Path) -> Iterator[Stage]:
    found = Stage(lab, Meshlb(running_agents), tmp_path, short_form=True, say=print)
    found.watch = Watch(lab, tmp_path)
    found.watch.start()
    yield found
    found.watch.stop()


def asked(lab: Lab, name: str, port: int = WEB) -> tuple[str, str]:
    """Our own address towards a node, and what a task says of us and itself; empty when none answers."""
    try:
        with urllib.request.urlopen(f"http://{lab.node(name).address}:{port}/", timeout=5) as answer:
            seen, task = answer.read().decode().split()
            return seen, task
    except OSError:
        return "", ""


def asked_from(node: Node, address: str, port: int = WEB) -> tuple[str, str, str]:
    """The same from a node: its own address, the one that the task sees, the task."""
    said = node.run([sys.executable, "-c", ASK, address, str(port)], check=False).stdout.split()
    own, seen, task = said if len(said) == 3 else ("", "", "")
    return own, seen, task


def own_address(lab: Lab) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        any_socket.connect((lab.nodes[0].address, 9))
        return str(any_socket.getsockname()[0])


def counts(lab: Lab, port: str) -> list[dict[str, Any]]:
    """What each node's agent has counted of a port."""
    found = []
    for node in lab.nodes:
        with urllib.request.urlopen(f"http://{node.address}:{HTTP_PORT}/api/v1/counts", timeout=5) as answer:
            found += [one for one in json.load(answer)["ports"] if one["port"] == port]
    return found


def masked(lab: Lab, port: str) -> int:
    return sum(one["masked"] for one in counts(lab, port))


def await_all(lab: Lab, tasks: int, port: int = WEB) -> None:
    """Until every node leads to so many tasks, and these see who asks."""
    own = own_address(lab)

    def all_seen(node: Node) -> bool:
        answers = {asked(lab, node.name, port) for _ in range(2 * tasks)}
        return len({task for seen, task in answers if seen == own}) == tasks == len(answers)

    for node in lab.nodes:
        eventually(partial(all_seen, node), timeout=60, what=f"{tasks} tasks at {node.name}")


def test_nginx_logs_clients_own_addresses(lab: Lab, stage: Stage, serve: Serve, nginx: str) -> None:
    options = ("--mode", "global", "--publish", f"{WEB}:8000", "--publish", f"{WEB2}:8000")
    serve(NAME, *options, *LABEL, *REFUSE, image=nginx)
    await_all(lab, 3)
    tasks = set()
    for client in lab.nodes:  # on the node itself, too
        for node in lab.nodes:
            for port in (WEB, WEB2):
                for _ in range(3):
                    own, seen, task = asked_from(client, node.address, port)
                    assert own == seen, (client, node, own, seen)
                    tasks.add((client.name, node.name, task))
    assert len(tasks) == 27
    logged: set[str] = set()
    for node, name in stage.containers():
        lines = node.run(["docker", "logs", name]).stdout.splitlines()
        logged |= {line.split()[0] for line in lines}
    assert logged == {own_address(lab), *(node.address for node in lab.nodes)}
    assert masked(lab, f"{WEB}/tcp") == masked(lab, f"{WEB2}/tcp") == 0


def changes(stage: Stage) -> Iterator[tuple[str, Callable[[], None]]]:
    node3 = stage.lab.node("node3")

    def cut() -> None:
        stage.lab.cut(node3)
        time.sleep(3)
        stage.lab.heal(node3)
        time.sleep(5)

    def kill() -> None:
        node, victim = stage.victim(0)
        began = time.time()
        node.run(["docker", "kill", victim])
        eventually(lambda: victim in stage.watch.deaths(), timeout=30, what="its death")
        stage.kills.append((began, stage.watch.deaths()[victim]))
        stage.await_running(5)

    yield "scaled to 8", lambda: stage.scale(8)
    yield "scaled to 2", lambda: stage.scale(2)
    yield "scaled to 5", lambda: stage.scale(5)
    yield "updated, start-first", lambda: stage.update("--update-order=start-first", "--update-parallelism=2")
    yield "updated, stop-first", lambda: stage.update("--update-order=stop-first", "--update-parallelism=2")
    for _ in range(3):
        yield "a task is killed", kill
    for node in stage.lab.nodes:
        yield f"the agent of {node.name} is replaced", partial(stage.front.replace, node)
    yield "a cut of 3 s", cut


def test_whatever_happens_every_answer_shows_the_clients_own_address(
    lab: Lab, stage: Stage, serve: Serve, nginx: str
) -> None:
    options = ("--replicas", "5", "--restart-delay", "1s", "--publish", f"{WEB}:8000", *GRACEFUL)
    serve(NAME, *options, *LABEL, *REFUSE, image=nginx)
    await_all(lab, 5)
    own = own_address(lab)
    total = 0
    for what, act in changes(stage):
        with Load(
            [f"{node.address}:{WEB}" for node in lab.nodes], rate=100, concurrency=500, steady=True
        ) as load:
            time.sleep(1)
            act()
            time.sleep(1)
            report = load.stop()
        total += report.succeeded
        print(f"{what}: {report.failed} of {report.succeeded + report.failed} failed, {report.reasons()}")
        assert wrong_addresses(report, own) == {}
        assert not [failure for failure in report.failures if not in_killed_hands(stage, failure)], what
    print(f"{total} answers, each with {own}")
    assert masked(lab, f"{WEB}/tcp") == 0


def wrong_addresses(report: Report, own: str) -> dict[str, int]:
    """What was seen but our own address."""
    return {
        first: count
        for answers in report.answers.values()
        for first, count in answers.items()
        if first.split()[0] != own
    }


def in_killed_hands(stage: Stage, failure: Any) -> bool:
    return any(failure.began_wall <= done and failure.wall >= began for began, done in stage.kills)


def test_dockerd_is_restarted(lab: Lab, stage: Stage, serve: Serve, nginx: str) -> None:
    options = ("--mode", "global", "--restart-delay", "1s", "--publish", f"{WEB}:8000", *GRACEFUL)
    serve(NAME, *options, *LABEL, *REFUSE, image=nginx)
    await_all(lab, 3)
    node, own = lab.node("node3"), own_address(lab)
    others = [f"{each.address}:{WEB}" for each in lab.nodes if each is not node]
    with Load(others, rate=100, concurrency=500, steady=True) as load:
        pid = node.run(["cat", "/run/docker.pid"]).stdout
        began = time.time()
        node.run(["kill", pid.strip()])
        eventually(
            lambda: node.run(["cat", "/run/docker.pid"], check=False).stdout not in ("", pid),
            timeout=60,
            what="another dockerd",
        )
        node.wait_engine()
        stage.kills.append((began, time.time()))
        stage.await_running(3)
        report = load.stop()
    print(f"{report.failed} of {report.succeeded + report.failed} failed, {report.reasons()}")
    assert wrong_addresses(report, own) == {}
    assert not [failure for failure in report.failures if not in_killed_hands(stage, failure)]
    await_all(lab, 3)  # at that node, too


def test_two_nodes_lead_the_same_client_and_port_to_one_task(lab: Lab, stage: Stage, serve: Serve) -> None:
    serve(NAME, "--publish", f"{ECHO}:9000", *LABEL, *REFUSE, "--label", "meshlb.hold=20s")
    nodes = [node.address for node in lab.nodes[:2]]
    for node in nodes:
        eventually(partial(echoes, node, ECHO), timeout=60, what="the echo")
    began = time.monotonic()
    assert mixed_up(nodes, ECHO, PAIRS) == []
    print(f"{2 * PAIRS} connections in {time.monotonic() - began:.1f} s")
    assert masked(lab, f"{ECHO}/tcp") == 0


def test_udp_and_long_streams_pass_as_they_are(lab: Lab, stage: Stage, serve: Serve) -> None:
    """Over the overlay's MTU, which is smaller than that of the task's way out; with offloads as they are."""
    publish = ("--publish", f"{ECHO}:9000/udp", "--publish", f"{ECHO}:9000/tcp")
    serve(NAME, "--mode", "global", *publish, *LABEL, *REFUSE, "--label", "meshlb.hold=20s")
    for node in lab.nodes:
        eventually(partial(datagram, node, b"?"), timeout=60, what=f"the echo at {node.name}")
        for size in (*range(1, 9_000, 337), *range(1_400, 1_480), 20_000, 60_000):
            question = os.urandom(size)
            for _ in range(3):  # every task
                assert datagram(node, question) == question, size
        for _ in range(3):
            data = os.urandom(8 << 20)
            assert hashlib.sha256(streamed(node, data)).digest() == hashlib.sha256(data).digest()
    assert masked(lab, f"{ECHO}/udp") == masked(lab, f"{ECHO}/tcp") == 0


def datagram(node: Node, question: bytes) -> bytes:
    """What a new client gets back; empty when that is nothing."""
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect((node.address, ECHO))
        client.send(question)
        try:
            return client.recv(70_000).partition(b"\n")[2]
        except OSError:
            return b""


def streamed(node: Node, data: bytes) -> bytes:
    heard = bytearray()
    with socket.create_connection((node.address, ECHO), 20) as client:
        for start in range(0, len(data), 65_536):
            part = data[start : start + 65_536]
            client.sendall(part)
            while len(heard) < start + len(part) and (more := client.recv(65_536)):
                heard += more
    return bytes(heard)


@pytest.fixture
def network(lab: Lab) -> Iterator[str]:
    """Another overlay; gone after the services of the test."""
    docker(lab, "network", "create", "--driver", "overlay", "--attachable", "--subnet", "10.77.0.0/24", "own")
    yield "own"
    remove = ["docker", "network", "rm", "own"]
    eventually(
        lambda: lab.nodes[0].run(remove, check=False).returncode == 0,
        timeout=60,
        what="the network to be gone",
    )


def test_tasks_of_several_networks_and_neighbours(
    lab: Lab, stage: Stage, network: str, serve: Serve, nginx: str
) -> None:
    both = ("--mode", "global", "--network", network, *LABEL)
    serve(NAME, *both, "--publish", f"{WEB}:8000", image=nginx)
    serve("other", *both, "--publish", f"{ECHO}:8000")
    await_all(lab, 3)
    for node in lab.nodes:
        from_containers(lab, node)
    check_that_nothing_else_has_changed(lab)


def inside(node: Node, container: str, *words: str) -> str:
    """What a command says in the network namespace of a container."""
    sandbox = ["docker", "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", container]
    return node.run(["nsenter", f"--net={node.run(sandbox).stdout.strip()}", *words]).stdout


def from_containers(lab: Lab, node: Node) -> None:
    """Neighbours, over the network that they share and through the mesh; and the very task that serves it."""
    [container] = containers(node, "other")
    ask = partial(inside, node, container, sys.executable, "-c", ASK)
    for target in lab.nodes:
        for _ in range(3):  # every task: the one on the same node, too
            assert len(ask(target.address, str(WEB)).split()) == 3
            assert ask(target.address, str(ECHO))  # its own service, so now and then itself
    virtual = inside(node, container, sys.executable, "-c", RESOLVE, NAME).strip()
    assert ipaddress.ip_address(virtual) in ipaddress.ip_network("10.77.0.0/24")  # by Docker's own names


def check_that_nothing_else_has_changed(lab: Lab) -> None:
    """What a task begins itself goes where it went, with its own address, and so does what comes from it."""
    for node in lab.nodes:
        [container] = containers(node, "other")
        got = inside(node, container, "ip", "route", "get", "203.0.113.9")
        assert re.search(r"via 172\S+ dev eth\d+ src 172\.", got), got
        own, _ = inside(node, container, sys.executable, "-c", ASK, node.address, str(WEB)).split()[:2]
        assert own.startswith("172."), own
        assert inside(node, container, sys.executable, "-c", ASK, "127.0.0.1", "8000")


def test_clients_of_ipv6_are_counted(lab: Lab, stage: Stage, serve: Serve, nginx: str) -> None:
    serve(NAME, "--mode", "global", "--publish", f"{WEB}:8000", *LABEL, image=nginx)
    await_all(lab, 3)
    before = masked(lab, f"{WEB}/tcp")
    node = lab.nodes[0]
    for _ in range(3):
        own, seen, _ = asked_from(node, "::1")
        assert own == "::1"
        assert ipaddress.ip_address(seen).version == 4
        own, seen, _ = asked_from(node, "127.0.0.1")
        assert (own, own == seen) == ("127.0.0.1", False)
    assert masked(lab, f"{WEB}/tcp") == before + 6
