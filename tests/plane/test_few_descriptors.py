"""However few file descriptors there are: what is accepted is served, and what is not is told."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_process import START, Agent, connect, free_port
from plane_process import quiet_echo
from waiting import eventually

from meshlb.descriptors import RAISE

Make = Callable[[int, int], tuple[Agent, list[int]]]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Make]:
    """An agent that may have so many descriptors and publishes so many ports, and their numbers."""
    agents: list[Agent] = []

    with quiet_echo() as backend:

        def make(descriptors: int, count: int) -> tuple[Agent, list[int]]:
            limit = ("prlimit", f"--nofile={descriptors}:{descriptors}")
            agents.append(Agent(tmp_path, prefix=limit))
            ports = [free_port() for _ in range(count)]
            agents[-1].publishes(dict.fromkeys(ports, backend))
            agents[-1].start()
            return agents[-1], ports

        yield make
        for one in agents:
            one.end_all()


def echoes(port: int) -> bool:
    with connect(port) as client:
        client.sendall(b"there?")
        return client.recv(100) == b"there?"


def is_refused(port: int) -> bool:
    with pytest.raises(ConnectionRefusedError):
        connect(port).close()
    return True


@pytest.mark.parametrize(("descriptors", "count"), [(64, 8), (256, 40)])
def test_all_ports_are_served_by_fewer_sockets(agent: Make, descriptors: int, count: int) -> None:
    mesh, ports = agent(descriptors, count)
    assert set(mesh.states().values()) == {"serving"}
    assert all(echoes(port) for port in ports)
    assert mesh.status()["problems"] == []


def test_ports_that_find_no_room_are_told_and_refused(agent: Make) -> None:
    mesh, ports = agent(128, 80)
    states = mesh.states()
    served = [port for port in ports if states[f"s{port}"] == "serving"]
    left_out = [port for port in ports if states[f"s{port}"] == "failed"]
    assert len(served) + len(left_out) == 80
    assert served
    assert left_out
    assert all(echoes(port) for port in served)
    assert all(is_refused(port) for port in left_out)
    assert RAISE in mesh.reason(f"s{left_out[0]}")
    told = f"{len(left_out)} ports are not served for want of file descriptors"
    eventually(lambda: told in str(mesh.status()["problems"]), timeout=START, what=told)
    eventually(lambda: mesh.said().count(told) == 1, timeout=START, what="it in the log")


def test_clients_that_wait_for_long_are_told_until_they_are_served(agent: Make) -> None:
    mesh, (port,) = agent(128, 1)
    told = "clients wait to be accepted: the agent is out of file descriptors"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(100)]
        for client in clients:
            client.sendall(b"me!")
        eventually(lambda: told in str(mesh.status()["problems"]), timeout=START, what=told)
        assert mesh.status()["counters"]["open"] >= 20
    eventually(lambda: mesh.status()["problems"] == [], timeout=START, what="that to be over")
    eventually(lambda: f"no more: {told}" in mesh.said(), timeout=START, what="that in the log")
    assert mesh.said().count(f"WARNING {told}") == mesh.said().count(f"no more: {told}") == 1
    assert echoes(port)


def test_the_status_answers_when_clients_have_all_the_rest(agent: Make) -> None:
    mesh, (port,) = agent(64, 1)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), START)).sendall(b"me!")
        eventually(lambda: mesh.status()["problems"], timeout=START, what="it to be told")
        assert mesh.status("/healthz")
