"""Agents that take over from one another, under load, and what happens when either of the two fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from agent_process import START, Agent, Load, Talks, free_port, is_refused
from datagrams import UdpServer, ask
from datagrams import client as udp_client
from fake_engine import FakeEngine
from mesh import Server, echo
from waiting import eventually

from meshlb.config import Config
from meshlb.handover.agent_socket import claim
from meshlb.handover.agent_socket import connect as ask_agent
from meshlb.handover.giving import SOON, Conversation, HandoverError
from meshlb.handover.place import Place
from meshlb.life import run
from meshlb.plane import Plane
from meshlb.ports.listen import Listeners
from meshlb.ports.takeover import Takeover
from meshlb.process import Signals
from meshlb.swarm.source import SwarmSource


@pytest.fixture
def echoing(server: Callable[..., Server]) -> Server:
    return server(echo)


@pytest.fixture
def node(tmp_path: Path, echoing: Server) -> Iterator[Agent]:
    """An agent that serves one port, not started yet."""
    agent = Agent(tmp_path)
    agent.publishes({free_port(): echoing.port})
    yield agent
    agent.end_all()


@pytest.mark.timeout(300)
def test_fifty_handovers_under_load_lose_nothing(node: Agent) -> None:
    node.start()
    with Load(node.port) as load:
        talks = [Talks(node.port, 10)]
        before = []
        for number in range(50):
            before.append(node.heir("--workers", str(1 + number % 3)))
            for each in talks:
                each.say(f"after {number}")
            if number % 10 == 0:
                talks.append(Talks(node.port, 5))
                load.failures += ["late"] if load.slowest > START else []
        assert load.failures == []
        for each in talks:
            each.close()
    assert load.count > 200
    eventually(lambda: all(one.poll() == 0 for one in before), timeout=START, what="the old agents to end")
    assert "Traceback" not in node.said()
    assert " cut" not in node.said()
    assert node.status()["ports"][0]["state"] == "serving"


def test_replace_without_a_running_agent_just_starts(node: Agent) -> None:
    (node.file.parent / "agent.sock").touch()  # nobody's
    node.start("--replace")
    with Load(node.port) as load:
        eventually(lambda: load.count > 10, timeout=START, what="some connections")
    assert load.failures == []
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    assert not (node.file.parent / "agent.sock").exists()


def test_ports_come_and_go_with_a_handover(node: Agent, echoing: Server) -> None:
    gone, stays, comes = free_port(), free_port(), free_port()
    node.publishes({stays: echoing.port, gone: echoing.port})
    node.start()
    node.file = node.file.with_name("other.toml")
    node.publishes({stays: echoing.port, comes: echoing.port})
    node.heir("--config", str(node.file))
    Talks(stays, 1).close()
    Talks(comes, 1).close()
    eventually(lambda: is_refused(gone), timeout=START, what="the port that is gone to be closed")
    assert set(node.states()) == {f"s{stays}", f"s{comes}"}


def test_connections_of_an_old_agent_end_with_sigterm_or_after_linger(node: Agent) -> None:
    node.start("--linger", "0.2", "--drain", "0.2")
    with contextlib.closing(Talks(node.port, 1)):
        assert node.heir("--drain", "0.2").wait(START) == 0
        assert "1 connection is cut" in node.said()
    with contextlib.closing(Talks(node.port, 1)) as talks:
        old = node.heir()
        talks.say("still here")
        old.send_signal(signal.SIGTERM)
        assert old.wait(START) == 0
        with pytest.raises(ConnectionResetError):
            talks.clients[0].recv(1)
    Talks(node.port, 1).close()


def test_conversations_of_udp_go_on_and_what_is_asked_is_answered(node: Agent) -> None:
    held, release = threading.Event(), threading.Event()

    def answer(data: bytes) -> tuple[bytes, ...]:
        if data == b"slow":
            held.set()
            release.wait(START)
        return (data,)

    server, port = UdpServer(answer), free_port()
    entry = '[[port]]\npublished = {}\nprotocol = "udp"\nservice = "u"\nbackends = ["127.0.0.1:{}"]\n'
    node.write(entry.format(port, server.port))
    try:
        node.start()
        with udp_client(port) as one, udp_client(port) as two:
            assert ask(one, b"before") == b"before"
            two.send(b"slow")
            assert held.wait(START)
            node.heir("--workers", "3")
            release.set()
            assert two.recv(100) == b"slow"  # the old agent's to answer
            for number in range(20):
                assert ask(one, str(number).encode()) == str(number).encode()
    finally:
        release.set()
        server.close()


# -- A new agent that fails


def asked(node: Agent) -> Conversation:
    sock = ask_agent(node.file.parent / "agent.sock")
    assert sock is not None
    return Conversation(sock)


def goes_on(node: Agent) -> None:
    """It serves, has what it had, and hands over to the next one."""
    with Load(node.port) as load:
        eventually(lambda: load.count > 20, timeout=START, what="some connections")
    assert load.failures == []
    Talks(node.port, 4).close()
    node.heir()
    Talks(node.port, 4).close()


def serves_on(node: Agent, count: int = 1) -> bool:
    """Whether it has told so often that there was no handover."""
    return node.said().count("this agent serves on") == count


def greets(new: Conversation) -> None:
    new.say("hello")


def takes(new: Conversation) -> None:
    greets(new)
    for _, sockets in new.take():
        sockets[0].close()


def serves(new: Conversation) -> None:
    takes(new)
    new.say("serving")


def hears(new: Conversation) -> None:
    serves(new)
    new.hear("released")


@pytest.mark.parametrize("step", [greets, takes, serves, hears])
def test_a_new_agent_that_dies_half_way_changes_nothing(
    node: Agent, step: Callable[[Conversation], None]
) -> None:
    node.start()
    with contextlib.closing(Talks(node.port, 3)) as talks, Load(node.port) as load:
        for count in range(1, 4):
            with asked(node) as new:
                step(new)
            eventually(partial(serves_on, node, count), timeout=START, what="it to go on")
            talks.say("still here")
    assert load.failures == []
    goes_on(node)


@pytest.mark.parametrize("step", [takes, hears])
def test_a_new_agent_that_hangs_half_way_changes_nothing(
    node: Agent, step: Callable[[Conversation], None]
) -> None:
    node.start()
    with asked(node) as new, Load(node.port, 1) as load:
        step(new)
        with asked(node) as other, pytest.raises(HandoverError, match="is taking over at this moment"):
            takes(other)
        eventually(lambda: serves_on(node), timeout=START, what="it to go on")
        eventually(lambda: load.count > 0, timeout=START, what="a connection")
    assert load.failures == []
    goes_on(node)


def test_the_last_word_of_a_new_agent_counts_even_when_it_is_late(node: Agent) -> None:
    """It may have been stopped between hearing that it is alone and saying that it is."""
    node.start()
    with asked(node) as new:
        hears(new)
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)
        time.sleep(SOON + 0.5)
        new.say("taken")
        node.process.send_signal(signal.SIGCONT)
        new.hear("farewell", START)
    assert node.wait() == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100,
        b"[" * 60000,
        b"{}",
        b'{"meshlb": 1, "word": "taken"}',
        b'{"meshlb": "1", "word": "hello"}',
        b'{"meshlb": 1, "word": ' + b'"x"' + b" " * 70000 + b"}",
    ],
)
def test_garbage_changes_nothing(node: Agent, garbage: bytes) -> None:
    node.start()
    with asked(node) as new:
        new._socket.setblocking(True)
        new._socket.send(garbage)
        eventually(lambda: serves_on(node), timeout=START, what="it to go on")
    goes_on(node)


def test_another_releases_message_is_refused_in_a_sentence(node: Agent) -> None:
    node.start()
    with asked(node) as new:
        new._socket.setblocking(True)
        new._socket.send(b'{"meshlb": 99, "word": "hello"}')
        assert b"version 99, ours is 1" in new._socket.recv(65536)
    goes_on(node)


def test_a_new_agent_that_cannot_start_changes_nothing(node: Agent, tmp_path: Path) -> None:
    node.start()
    bad = tmp_path / "bad.toml"
    bad.write_text("[[port]]\npublished = 99999\n")
    assert node.begin("--replace", "--config", str(bad)).wait(START) == 1
    assert f"{bad}:1: this [[port]] has no backends" in node.said()
    goes_on(node)


@pytest.mark.parametrize(
    ("swarm", "why"),
    [("locked", "this node's swarm is locked: run docker swarm unlock"), ("pending", "not a working part")],
)
def test_a_new_agent_whose_engine_shows_nothing_yet_does_not_take_over(
    node: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swarm: str, why: str
) -> None:
    node.start()
    monkeypatch.setattr("meshlb.handover.place.FIRST", 2.0)
    with FakeEngine(tmp_path / "docker.sock") as engine, Load(node.port) as load:
        engine.answers["info"] = {"Swarm": {"LocalNodeState": swarm}}
        place = Place(node.file.parent / "agent.sock")
        place.claim(replace=True)
        config = Config(http="", state_dir=None)
        plane = Plane(1, listeners=Listeners(Takeover("never")))

        async def new() -> None:
            async with asyncio.timeout(START):
                await run(config, SwarmSource(engine.url), plane, Signals(), place=place)

        with pytest.raises(HandoverError, match=rf"there is nothing to serve yet \(.*{why}"):
            asyncio.run(new())
        place.close()
    assert load.failures == []
    goes_on(node)


# -- An old agent that fails


def test_an_old_agent_that_hangs_is_named(node: Agent) -> None:
    node.start()
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    new = node.begin("--replace")
    assert new.wait(START) == 1
    assert f"end it with kill -9 {node.process.pid}" in node.said()
    node.process.send_signal(signal.SIGCONT)
    eventually(lambda: serves_on(node), timeout=START, what="it to go on")
    goes_on(node)


class Old(threading.Thread):
    """An agent that hands over as far as it wants to, then hangs or dies."""

    def __init__(self, node: Agent, steps: int, hangs: bool) -> None:
        super().__init__()
        self.listener = socket.socket(socket.AF_INET6)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.listener.bind(("::", node.port))
        self.listener.listen(100)
        self.steps, self.hangs, self.over = steps, hangs, threading.Event()
        self.place = claim(node.file.parent / "agent.sock")
        self.place.listener.setblocking(True)

    def run(self) -> None:
        looks, _ = self.place.listener.accept()
        sock, _ = self.place.listener.accept()
        looks.close()
        with Conversation(sock) as new:
            steps: list[Callable[[], object]] = [
                lambda: new.hear("hello"),
                lambda: new.give([("tcp." + str(self.listener.getsockname()[1]), (self.listener,))]),
                lambda: new.hear("serving", START),
                lambda: new.say("released"),
                lambda: new.hear("taken"),
            ]
            for step in steps[: self.steps]:
                step()
            if self.hangs:
                self.over.wait(START)
        self.place.close()
        self.listener.close()


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_new_agent_gives_up_when_the_old_one_fails(node: Agent, steps: int, hangs: bool) -> None:
    old = Old(node, steps, hangs)
    old.start()
    try:
        new = node.begin("--replace", "--drain", "0")
        assert new.wait(START) == 1
        said = node.said().splitlines()[-1]
        assert "kill -9" in said if hangs else "broken the handover off" in said or "is gone" in said
    finally:
        old.over.set()
        old.join()


def test_a_new_agent_that_has_the_last_word_goes_on(node: Agent) -> None:
    old = Old(node, 5, hangs=True)
    old.start()
    try:
        node.start("--replace")
        old.over.set()
        old.join()
        eventually(lambda: "took over from process" in node.said(), timeout=START, what="the takeover")
        Talks(node.port, 4).close()
    finally:
        old.over.set()
        old.join()


# -- SIGUSR2


def test_sigusr2_has_an_agent_start_its_own_replacement(node: Agent) -> None:
    node.start()
    with contextlib.closing(Talks(node.port, 5)) as talks, Load(node.port) as load:
        old = node.process
        assert old is not None
        node.signal(signal.SIGUSR2)
        eventually(lambda: "has taken over" in node.said(), timeout=START, what="the replacement")
        talks.say("still here")
        assert old.poll() is None
    assert load.failures == []
    assert old.wait(START) == 0
    pid = int(node.said().partition(" has taken over")[0].rpartition("process ")[2])
    Talks(node.port, 4).close()
    subprocess.run(["kill", str(pid)], check=True)
    eventually(lambda: is_refused(node.port), timeout=START, what="the replacement to end")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), timeout=START, what="its end")


def test_a_replacement_has_the_options_that_the_units_file_says_now(
    node: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "meshlb-agent"
    file.write_text("MESHLB_DRAIN=5\n")
    unit = {"MESHLB_ENVIRONMENT_FILE": str(file), "MESHLB_DRAIN": "5", "MESHLB_LOG_LEVEL": "debug"}
    for name, value in unit.items():
        monkeypatch.setenv(name, value)
    node.start()
    file.write_text("MESHLB_LINGER=77\n")
    node.signal(signal.SIGUSR2)
    eventually(lambda: "has taken over" in node.said(), timeout=START, what="the replacement")
    pid = int(node.said().partition(" has taken over")[0].rpartition("process ")[2])
    try:
        found = environment_of(pid)
        del unit["MESHLB_DRAIN"]
        assert found.items() >= (unit | {"MESHLB_LINGER": "77"}).items()
        assert "MESHLB_DRAIN" not in found
    finally:
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), timeout=START, what="its end")


def environment_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def test_a_replacement_that_fails_is_told_and_the_agent_serves_on(node: Agent) -> None:
    node.start("--log-level", "info")
    node.file.rename(node.file.with_suffix(".away"))  # the new one will not find it
    node.signal(signal.SIGUSR2)
    eventually(
        lambda: "the new agent has not taken over" in node.said(), timeout=START * 2, what="its failure"
    )
    node.file.with_suffix(".away").rename(node.file)
    goes_on(node)
