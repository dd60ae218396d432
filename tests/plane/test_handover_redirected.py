"""A handover of a port that nftables leads to the agent, in a network of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_process import START, Agent
from waiting import eventually

MISSING = [tool for tool in ("ip", "nft") if not shutil.which(tool)]
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or bool(MISSING), reason=f"needs root and {', '.join(MISSING) or 'nothing else'}"
)
PORT, BACKEND = 8080, 9000

ECHO = f"""
import socket, threading
def serve(client):
    with client:
        while data := client.recv(65536):
            client.sendall(data)
listener = socket.create_server(("127.0.0.1", {BACKEND}), backlog=1000)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

# Connects again and again until its input ends; then says how often, and every failure.
LOAD = f"""
import select, socket, sys
count, failures = 0, []
while not select.select([sys.stdin], [], [], 0.01)[0]:
    count += 1
    try:
        with socket.create_connection(("127.0.0.1", {PORT}), 20) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
    except Exception as error:
        failures.append(repr(error))
print(count, failures)
"""

TALK = f"""
import socket, sys
with socket.create_connection(("127.0.0.1", {PORT}), 20) as client:
    for line in sys.stdin:
        client.sendall(line.encode())
        print(client.recv(100).decode(), end="", flush=True)
"""


class Namespace:
    """A network with nothing but loopback, and programs in it."""

    def __init__(self, name: str) -> None:
        self.name, self.programs = name, list[subprocess.Popen[str]]()
        self.enter = ("ip", "netns", "exec", name)
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run([*self.enter, "ip", "link", "set", "lo", "up"], check=True)

    def program(self, text: str) -> subprocess.Popen[str]:
        command = [*self.enter, sys.executable, "-I", "-S", "-c", text]
        self.programs.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        return self.programs[-1]

    def tables(self) -> int:
        listed = subprocess.run(
            [*self.enter, "nft", "list", "tables"], check=True, capture_output=True, text=True
        )
        return listed.stdout.count("inet meshlb_")

    def remove(self) -> None:
        for program in self.programs:
            program.kill()
            program.communicate()
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


@pytest.fixture
def network() -> Iterator[Namespace]:
    network = Namespace(f"meshlb-hand-{os.getpid()}")
    yield network
    network.remove()


@pytest.fixture
def node(network: Namespace, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path, prefix=network.enter)
    agent.publishes({PORT: BACKEND})
    agent.in_reach = False
    yield agent
    agent.end_all()


def said(program: subprocess.Popen[str], line: str) -> str:
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(line + "\n")
    program.stdin.flush()
    return program.stdout.readline().strip()


def test_redirected_ports_lose_nothing(network: Namespace, node: Agent) -> None:
    echo = network.program(ECHO)
    assert echo.stdout is not None
    assert echo.stdout.readline() == "ready\n"
    always = ("--takeover", "always", "--http", "off")
    node.start(*always)
    load, talks, old = network.program(LOAD), [network.program(TALK)], []
    assert said(talks[0], "first") == "first"
    for number in range(8):
        old.append(node.heir(*always))
        talks.append(network.program(TALK))
        assert [said(talk, f"after {number}") for talk in talks] == [f"after {number}"] * len(talks)
    assert network.tables() == 9  # each has connections that came by its own
    count, _, failures = load.communicate("\n", START)[0].partition(" ")
    assert failures == "[]\n"
    assert int(count) > 20
    for talk in talks[:-1]:
        talk.communicate(timeout=START)
    eventually(lambda: network.tables() == 1, timeout=START, what="the old tables to go")
    assert said(talks[-1], "still here") == "still here"
    for one in [*old, *node.begun]:
        if one.poll() is None:
            one.kill()
            one.wait()
    eventually(lambda: network.tables() == 0, timeout=START, what="nothing to be left")
