"""An agent under `meshlb-agent --keeper`: killed, upgraded, ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_process import START, Agent, Load, Talks, connect, free_port, is_refused
from mesh import Server, echo
from waiting import eventually

# What the kernel sends for a killed process: an RST, or a FIN where nothing was unread.
CUT = ("ConnectionReset", "BrokenPipe", "answered b''")


@pytest.fixture
def node(tmp_path: Path, server: Callable[..., Server]) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    agent.publishes({free_port(): server(echo).port})
    yield agent
    for pid in children(agent):
        os.kill(pid, signal.SIGKILL)
    agent.end_all()


def children(node: Agent) -> list[int]:
    if node.process is None:
        return []
    tasks = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children")
    return [int(word) for word in tasks.read_text().split()] if tasks.exists() else []


def agent_of(node: Agent) -> int:
    """The child that was started last; numbers may begin anew."""
    return max(children(node), default=0, key=started)


def started(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def killed(node: Agent) -> None:
    """The agent is killed, and another one is there."""
    before = children(node)
    assert before
    os.kill(agent_of(node), signal.SIGKILL)
    eventually(lambda: agent_of(node) not in (0, *before), timeout=START, what="another agent")


@pytest.mark.timeout(300)
def test_an_agent_that_is_killed_refuses_nobody(node: Agent) -> None:
    node.start("--keeper")
    with Load(node.port) as load:
        for _ in range(10):
            before = load.count
            eventually(lambda: load.count > before + 200, timeout=START, what="connections")  # noqa: B023
            killed(node)
        Talks(node.port, 4).close()
    # Those that a killed agent had are lost with it, two at the most each time; nobody is refused.
    assert [failure for failure in load.failures if not failure.startswith(CUT)] == []
    assert len(load.failures) <= 20
    assert node.said().count("was ended by signal 9") == 10
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    assert is_refused(node.port)


def test_clients_wait_while_no_agent_runs(node: Agent) -> None:
    node.start("--keeper")
    agent = agent_of(node)
    assert agent
    away = node.file.rename(node.file.with_suffix(".away"))  # so that no agent can start
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: "ended with exit code 1" in node.said(), timeout=START, what="agents to fail")
    with connect(node.port) as waiting:
        waiting.sendall(b"hello")
        away.rename(node.file)
        assert waiting.recv(5, socket.MSG_WAITALL) == b"hello"


def test_an_upgrade_under_a_keeper_and_then_a_kill(node: Agent) -> None:
    node.start("--keeper")
    with contextlib.closing(Talks(node.port, 5)) as talks, Load(node.port) as load:
        first = agent_of(node)
        for count in range(1, 4):
            node.signal(signal.SIGUSR2)
            said = node.said
            eventually(
                lambda: len(re.findall("process [0-9]+ has taken over", said())) == count,  # noqa: B023
                timeout=START,
                what="the upgrade",
            )
            talks.say("still here")
        assert first in children(node)
        assert load.failures == []
        killed(node)
        talks.say("still here")  # in the agent that was first
        Talks(node.port, 4).close()
    eventually(lambda: children(node) == [agent_of(node)], timeout=START, what="the others to end")
    node.signal(signal.SIGHUP)
    node.signal(signal.SIGINT)
    assert node.wait() == 0
    assert is_refused(node.port)


def test_a_keeper_is_idle_when_the_agent_of_another_has_the_place(node: Agent) -> None:
    """As when a Swarm service is updated: the new task's agent takes over from the old one's."""
    node.start("--keeper")
    first = node.process
    with Load(node.port) as load, contextlib.closing(Talks(node.port, 3)) as talks:
        node.process = node.begin("--keeper", "--replace")
        eventually(lambda: "has taken over" in node.said(), timeout=START, what="the takeover")
        talks.say("still here")
        assert first is not None
        assert "nothing is left" not in node.said()  # until its last connection has ended
        talks.close()
        eventually(lambda: "nothing is left to do" in node.said(), timeout=START, what="the end of the agent")
        assert first.poll() is None
        first.terminate()
        assert first.wait(START) == 0
        killed(node)  # the sockets are with the new one's keeper
        Talks(node.port, 4).close()
    assert [failure for failure in load.failures if not failure.startswith(CUT)] == []
    assert len(load.failures) <= 2  # those of the one that was killed
    assert node.said().count("is started again") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for process namespaces")
def test_containers_hand_over_though_they_do_not_see_each_others_processes(
    tmp_path: Path, server: Callable[..., Server]
) -> None:
    node = Agent(tmp_path, prefix=("unshare", "--pid", "--mount-proc", "--fork", "--kill-child"))
    node.publishes({free_port(): server(echo).port})
    try:
        node.start("--keeper")
        with Load(node.port) as load, contextlib.closing(Talks(node.port, 3)) as talks:
            node.process = node.begin("--keeper", "--replace")
            eventually(lambda: "has taken over" in node.said(), timeout=START, what="the takeover")
            talks.say("still here")
        assert load.failures == []
        eventually(lambda: "nothing is left to do" in node.said(), timeout=START, what="the end of the agent")
        assert "took over from a process of another container" in node.said()
    finally:
        node.end_all()


def test_a_mistyped_option_ends_it_all(node: Agent) -> None:
    keeper = node.begin("--keeper", "--worker-count", "3")
    assert keeper.wait(START) == 2


def test_it_is_small(node: Agent) -> None:
    node.start("--keeper")
    assert node.process is not None
    modules = Path(f"/proc/{node.process.pid}/maps").read_text()
    assert "/meshlb/_" not in modules
    assert "ssl" not in modules


def test_what_is_not_ours_is_not_listened_to(node: Agent) -> None:
    node.start("--keeper")
    environment = Path(f"/proc/{agent_of(node)}/environ").read_text().split("\0")
    address = next(word for word in environment if word.startswith("NOTIFY_SOCKET=@")).partition("=@")[2]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for text in ("MAINPID=1", "FDSTOREREMOVE=1\nFDNAME=http", f"MAINPID={os.getpid()}"):
            stranger.sendto(text.encode(), f"\0{address}")
        stranger.sendto(os.urandom(4000), f"\0{address}")
    killed(node)
    Talks(node.port, 4).close()
    subprocess.run(["kill", "-TERM", str(node.process.pid if node.process else 0)], check=True)
    assert node.wait() == 0
