"""UDP on a real Swarm: every node leads each conversation to one task, and changes cost no answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter

import pytest
from docker_cli import Serve, scale
from waiting import eventually

from meshlb.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("agents"), pytest.mark.timeout(300)]

PUBLISHED = 5353


def ask(address: str, question: bytes = b"?", timeout: float = 2) -> str:
    """The name of the container that answers one datagram; OSError when none does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect((address, PUBLISHED))
        sock.send(question)
        name, _, rest = sock.recv(65536).partition(b"\n")
        assert rest == question
        return name.decode()


def answering(address: str, count: int, timeout: float = 2) -> Counter[str]:
    """Who answers so many clients, and how often."""
    with contextlib.suppress(OSError):
        return Counter(ask(address, timeout=timeout) for _ in range(count))
    return Counter()


def await_tasks(lab: Lab, count: int) -> None:
    eventually(
        lambda: all(set(answering(node.address, count).values()) == {1} for node in lab.nodes),
        timeout=60,
        what=f"{count} tasks to answer on every node",
    )


def test_every_node_spreads_conversations_over_all_tasks(lab: Lab, serve: Serve) -> None:
    serve("names", "--publish", f"{PUBLISHED}:9000/udp", "--replicas", "3")
    await_tasks(lab, 3)
    for node in lab.nodes:
        assert sorted(answering(node.address, 12, timeout=10).values()) == [4, 4, 4]
        assert ask(node.address, b"x" * 8000, timeout=10)  # in several fragments over the overlay


def test_scaling_costs_no_answer(lab: Lab, serve: Serve) -> None:
    serve("names", "--publish", f"{PUBLISHED}:9000/udp", "--replicas", "2")
    await_tasks(lab, 2)
    stop = threading.Event()
    answered: Counter[str] = Counter()

    def keep_asking(address: str) -> None:
        while not stop.is_set():
            try:
                ask(address, timeout=10)
                answered["yes"] += 1
            except OSError:
                answered["no"] += 1
            stop.wait(0.005)

    threads = [threading.Thread(target=keep_asking, args=(node.address,)) for node in lab.nodes]
    for thread in threads:
        thread.start()
    try:
        for replicas in (5, 1, 3):
            scale(lab, "names", replicas)
            await_tasks(lab, replicas)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert answered["no"] == 0, answered
    assert answered["yes"] > 300
