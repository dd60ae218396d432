"""Who waits is served in turn, whichever worker has it and whichever has room."""

from __future__ import annotations

import contextlib
import select
import socket
import time

import pytest
from mesh import MakeServer, Mesh, backend, echo, free_port
from plane_process import exchange
from waiting import eventually

from meshlb.policy import Policy

MANY = 50


def numbered(mesh: Mesh, number: int) -> socket.socket:
    """A client that has said which one it is, and waits."""
    client = mesh.connect()
    client.sendall(bytes([number]))
    eventually(lambda: mesh.port_counts().waited == number + 1, timeout=30, what="it to wait")
    return client


def heard(port: int) -> list[int]:
    """What each client says to a server that begins to listen now, in the order in which they come."""
    numbers: list[int] = []
    with socket.create_server(("127.0.0.1", port), backlog=MANY) as listener:
        listener.settimeout(30)
        for _ in range(MANY):
            with listener.accept()[0] as connection:
                connection.settimeout(30)
                numbers.extend(connection.recv(1))
    return numbers


@pytest.mark.parametrize("workers", [1])
def test_whom_a_failed_attempt_sends_back_is_the_next_again(mesh: Mesh) -> None:
    """There are more clients than attempts, so that they cannot have gone round."""
    dead = backend(free_port())
    mesh.serve(dead, policy=Policy(hold=60))
    with contextlib.ExitStack() as stack:
        for number in range(MANY):
            stack.enter_context(numbered(mesh, number))
        failed = mesh.backend_counts()[dead].failed
        eventually(
            lambda: mesh.backend_counts()[dead].failed >= failed + 3, timeout=30, what="three more attempts"
        )
        assert heard(dead.port) == list(range(MANY))


@pytest.mark.parametrize("workers", [1])
def test_a_place_goes_to_who_has_waited_longest(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend, policy=Policy(max_conn=1, queue_timeout=60))
    with exchange(mesh.port.published) as first, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(numbered(mesh, number)) for number in range(10)]
        first.close()
        assert served_in_turn(clients) == list(range(10))


@pytest.mark.parametrize("workers", [2])
def test_a_place_that_one_worker_has_goes_to_who_waits_at_the_other(mesh: Mesh, server: MakeServer) -> None:
    """Each worker has some of so many clients; the kernel says which."""
    mesh.serve(server(echo).backend, policy=Policy(max_conn=1, queue_timeout=60))
    with exchange(mesh.port.published) as first, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(numbered(mesh, number)) for number in range(20)]
        first.close()
        assert sorted(served_in_turn(clients)) == list(range(20))


@pytest.mark.parametrize("workers", [1, 2])
def test_who_waits_for_a_place_does_not_hammer_a_backend_that_refuses(
    mesh: Mesh, server: MakeServer, workers: int
) -> None:
    dead = backend(free_port())
    mesh.serve(server(echo).backend, dead, policy=Policy(max_conn_backend=1, queue_timeout=60))
    with exchange(mesh.port.published) as first, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(numbered(mesh, number)) for number in range(10)]
        before, since = mesh.backend_counts()[dead].failed, time.monotonic()
        for _ in range(500):  # turns of the worker that has it
            first.sendall(b"x")
            assert first.recv(1) == b"x"
        failed = mesh.backend_counts()[dead].failed - before
        assert failed <= 10 * workers * (time.monotonic() - since + 1), "ten times a second"
        first.close()
        answered = served_in_turn(clients)
    assert (answered if workers == 1 else sorted(answered)) == list(range(10))


def test_without_another_backend_to_try_nobody_waits_for_one_that_is_not_full(mesh: Mesh) -> None:
    dead = [backend(free_port()) for _ in range(2)]
    mesh.serve(*dead, policy=Policy(max_conn_backend=5, retries=0, queue_timeout=60))
    for _ in range(3):
        with pytest.raises(ConnectionResetError), mesh.connect() as client:
            client.recv(1)
    assert mesh.port_counts().refused.no_backend == 3


def served_in_turn(clients: list[socket.socket]) -> list[int]:
    """Who is answered, in this order, when each that is makes room for the next."""
    answered: list[int] = []
    while clients:
        ready, _, _ = select.select(clients, [], [], 20)
        assert ready, f"nobody of {len(clients)} that wait is served"
        for client in ready:
            answered.extend(client.recv(1))
            clients.remove(client)
            client.close()
    return answered
