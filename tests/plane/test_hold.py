"""Clients that are held wait as long as they are told, whatever their backends do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from mesh import MakeServer, Mesh, backend, blackhole, echo, exactly, free_port
from waiting import eventually

from meshlb.model import BackendState, Port
from meshlb.policy import Policy
from meshlb.table import Backend, Table


def turned_away_at(client: socket.socket) -> float:
    """When the client is reset."""
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
    return time.monotonic()


@contextlib.contextmanager
def before_who_is_not_held(mesh: Mesh, port: Port) -> Iterator[None]:
    """What is done inside is over before a client that comes now to a port without `hold` is turned away.

    Its attempt has five seconds, as there is no other backend.
    """
    ends: list[float] = []
    client = socket.create_connection(("127.0.0.1", port.published), 60)
    other = threading.Thread(target=lambda: ends.append(turned_away_at(client)))
    other.start()
    eventually(lambda: mesh.port_counts(port).accepted == 1, timeout=30, what="the client that is not held")
    yield
    end = time.monotonic()
    other.join()
    assert end < ends[0]


def serve(mesh: Mesh, hold: float, held: list[Backend], other: Port, not_held: Backend) -> None:
    """On the mesh's port with `hold`, on the other without."""
    mesh.plane.apply(
        Table(
            (
                mesh.entry(*held, policy=Policy(hold=hold, connect_timeout=30)),
                mesh.entry(not_held, port=other),
            )
        )
    )


def test_an_attempt_that_is_not_answered_ends_with_the_hold(mesh: Mesh) -> None:
    other = Port(free_port(), 80)
    with blackhole() as number:
        serve(mesh, 0.3, [backend(number)], other, backend(number))
        with before_who_is_not_held(mesh, other):
            turned_away_at(mesh.connect(60))
    assert mesh.backend_counts()[backend(number)].chosen == 1
    assert mesh.port_counts().refused.no_backend == 1


def test_a_later_attempt_ends_with_the_hold_too(mesh: Mesh) -> None:
    other = Port(free_port(), 80)
    with blackhole() as number:
        serve(mesh, 2, [], other, backend(number))
        with before_who_is_not_held(mesh, other), mesh.connect(60) as client:
            eventually(lambda: mesh.port_counts().waited == 1, timeout=30, what="the client to wait")
            serve(mesh, 2, [backend(number)], other, backend(number))
            turned_away_at(client)
        assert mesh.backend_counts()[backend(number)].chosen == 1


def test_what_the_hold_cuts_short_is_not_the_backends_fault(mesh: Mesh) -> None:
    with blackhole() as number:
        mesh.serve(backend(number), policy=Policy(hold=0.05, connect_timeout=10))
        for _ in range(4):
            turned_away_at(mesh.connect(60))
        counts = mesh.backend_counts()[backend(number)]
    assert (counts.failed, counts.aside) == (4, False)


def test_a_client_that_has_ended_its_half_while_it_waited(mesh: Mesh, server: MakeServer) -> None:
    def answer_at_the_end(connection: socket.socket) -> None:
        asked = b""
        while more := connection.recv(100):
            asked += more
        connection.sendall(asked)

    mesh.serve(policy=Policy(hold=60))
    with mesh.connect(30) as client:
        eventually(lambda: mesh.port_counts().waited == 1, timeout=30, what="the client to wait")
        client.sendall(b"all of it")
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.2)  # epoll has told of it by then, and will not again
        mesh.serve(server(answer_at_the_end).backend, policy=Policy(hold=60))
        assert exactly(client, 100) == b"all of it"


def test_clients_wait_while_there_are_only_backends_that_have_drained(mesh: Mesh, server: MakeServer) -> None:
    policy = Policy(hold=60, drain=0.1)
    leaving = server(echo)
    mesh.serve(leaving.backend, policy=policy)
    mesh.serve(backend(leaving.port, state=BackendState.DRAINING), policy=policy)
    time.sleep(0.3)
    with mesh.connect(30) as client:
        client.sendall(b"still here?")
        eventually(lambda: mesh.port_counts().waited == 1, timeout=30, what="the client to wait")
        mesh.serve(server(echo).backend, policy=policy)
        assert exactly(client, 11) == b"still here?"
