"""Backends are chosen exactly in turn, and one that does not answer costs no client its connection."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from mesh import MakeServer, Mesh, backend, blackhole, exactly, free_port

from meshlb.model import BackendState
from meshlb.policy import Policy


def named(name: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        while connection.recv(1024):
            connection.sendall(name)

    return handle


def ask(mesh: Mesh, timeout: float = 30, say: bytes = b"who") -> bytes:
    with mesh.connect(timeout) as client:
        client.sendall(say)
        return client.recv(64)


def test_round_robin_is_exact_over_all_workers(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(*(server(named(name)).backend for name in (b"a", b"b", b"c", b"d", b"e")))
    assert Counter(ask(mesh) for _ in range(100)) == dict.fromkeys((b"a", b"b", b"c", b"d", b"e"), 20)


def test_round_robin_is_exact_for_clients_at_once(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(*(server(named(name)).backend for name in (b"a", b"b", b"c")))
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.extend(ask(mesh) for _ in range(30))) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(answers) == {b"a": 100, b"b": 100, b"c": 100}


def test_the_turn_survives_a_change_of_the_table(mesh: Mesh, server: MakeServer) -> None:
    one, two = server(named(b"1")), server(named(b"2"))
    answers = []
    for _ in range(10):
        mesh.serve(one.backend, two.backend)
        answers.append(ask(mesh))
    assert Counter(answers) == {b"1": 5, b"2": 5}


def test_a_refusing_backend_is_passed_over(mesh: Mesh, server: MakeServer) -> None:
    good = server(named(b"good"))
    mesh.serve(*(backend(free_port()) for _ in range(9)), good.backend)
    assert {ask(mesh) for _ in range(50)} == {b"good"}
    assert mesh.counters().failed == 0
    assert 27 <= mesh.counters().failovers < 100, (
        "each is set aside after three failures, and only probed then"
    )


def test_what_the_client_said_reaches_the_one_that_answers(mesh: Mesh, server: MakeServer) -> None:
    """The first bytes are read before the refusal is known: they must not be lost."""

    def read_all(connection: socket.socket) -> None:
        connection.sendall(connection.recv(65536, socket.MSG_WAITALL))

    mesh.serve(backend(free_port()), backend(free_port()), server(read_all).backend)
    for _ in range(10):
        with mesh.connect() as client:
            client.sendall(bytes(range(256)) * 256)
            assert exactly(client, 65536) == bytes(range(256)) * 256


def test_a_blackholed_backend_is_passed_over(mesh: Mesh, server: MakeServer) -> None:
    with blackhole() as dead:
        mesh.serve(backend(dead), server(named(b"good")).backend, policy=Policy(connect_timeout=0.1))
        assert {ask(mesh) for _ in range(6)} == {b"good"}
    assert mesh.counters().failovers == 3
    assert mesh.counters().failed == 0


def test_the_last_backend_is_given_time(mesh: Mesh, server: MakeServer) -> None:
    """With nobody else to turn to, a slow answer is better than none."""
    with blackhole() as dead:
        mesh.serve(backend(dead), policy=Policy(connect_timeout=0.05))
        with mesh.connect() as client:
            client.settimeout(1)
            with pytest.raises(TimeoutError):
                client.recv(1)
            assert mesh.counters().failed == 0


@pytest.mark.parametrize("say", [b"", b"hello"])
def test_no_backend_answers(mesh: Mesh, say: bytes) -> None:
    mesh.serve(backend(free_port()), backend(free_port()))
    with pytest.raises(ConnectionResetError):
        ask(mesh, say=say)
    assert mesh.counters().failed == 1


def test_no_backend_at_all(mesh: Mesh) -> None:
    mesh.serve()
    with pytest.raises(ConnectionResetError):
        ask(mesh, say=b"")
    assert mesh.counters().failed == 1


def test_draining_and_suspected_backends_are_better_than_none(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(
        backend(server(named(b"draining")).port, state=BackendState.DRAINING),
        backend(server(named(b"suspected")).port, state=BackendState.SUSPECTED),
        backend(server(named(b"down")).port, state=BackendState.DOWN),
    )
    assert {ask(mesh) for _ in range(6)} == {b"draining", b"suspected"}


def test_only_those_that_are_up_are_chosen(mesh: Mesh, server: MakeServer) -> None:
    draining, suspected, up = server(named(b"draining")), server(named(b"suspected")), server(named(b"up"))
    mesh.serve(
        backend(draining.port, state=BackendState.DRAINING),
        backend(suspected.port, state=BackendState.SUSPECTED),
        backend(free_port(), state=BackendState.DOWN),
        up.backend,
    )
    assert {ask(mesh) for _ in range(6)} == {b"up"}
    assert mesh.counters().failovers == 0
