"""However many backends a port has: who answers is found, each is tried once, and soon few are in vain."""

from __future__ import annotations

import contextlib
import time

import pytest
from datagrams import UdpServer, ask, client
from mesh import MakeServer, Mesh, Server, backend, echo, free_port
from plane_process import exchange
from waiting import eventually

from meshlb.model import Port, Protocol
from meshlb.policy import BALANCERS, Policy
from meshlb.table import Backend, Table

CLIENTS = 60


def dead(count: int, number: int) -> list[Backend]:
    """Backends at which nobody listens."""
    return [backend(number, f"127.1.{index // 250}.{index % 250 + 1}") for index in range(count)]


def around(server: Server, before: int, after: int) -> list[Backend]:
    """One that answers, among those that do not."""
    others = dead(before + after, server.port)
    return [*others[:before], server.backend, *others[before:]]


@pytest.mark.parametrize("balance", BALANCERS)
@pytest.mark.parametrize(("before", "after"), [(127, 0), (64, 100), (500, 500)])
def test_the_one_that_answers_is_found(
    mesh: Mesh, server: MakeServer, before: int, after: int, balance: str
) -> None:
    up = server(echo)
    mesh.serve(*around(up, before, after), policy=Policy(balance=balance))
    for _ in range(CLIENTS):
        exchange(mesh.port.published).close()
    assert mesh.port_counts().refused.no_backend == 0


@pytest.mark.parametrize("count", [64, 65, 129, 300])
def test_each_is_tried_once(mesh: Mesh, server: MakeServer, count: int) -> None:
    closed = server(echo)
    closed.close()
    mesh.serve(*dead(count, closed.port))
    with pytest.raises(ConnectionResetError), mesh.connect() as sock:
        sock.recv(1)
    assert {of.chosen for of in mesh.backend_counts().values()} == {1}


def test_as_many_are_tried_as_retries_say(mesh: Mesh, server: MakeServer) -> None:
    closed = server(echo)
    closed.close()
    mesh.serve(*dead(300, closed.port), policy=Policy(retries=99))
    with pytest.raises(ConnectionResetError), mesh.connect() as sock:
        sock.recv(1)
    assert sum(of.chosen for of in mesh.backend_counts().values()) == 100


def test_once_they_are_known_to_fail_one_client_tries_one_of_them_at_most(
    mesh: Mesh, server: MakeServer
) -> None:
    up = server(echo)
    mesh.serve(*around(up, 100, 100))

    def failing() -> bool:
        exchange(mesh.port.published).close()
        return sum(of.aside for of in mesh.backend_counts().values()) == 200

    eventually(failing, timeout=60, what="all that do not answer to be set aside")
    for _ in range(10):
        time.sleep(0.3)  # by now most of them are to be probed
        tried = mesh.port_counts().failovers
        exchange(mesh.port.published).close()
        assert mesh.port_counts().failovers <= tried + 1


def test_questions_are_put_to_each_once(mesh: Mesh) -> None:
    port = Port(free_port(), 53, Protocol.UDP)
    with contextlib.closing(UdpServer()) as up:
        others = dead(200, up.port)
        mesh.plane.apply(Table((mesh.entry(*others[:150], up.backend, *others[150:], port=port),)))
        with client(port.published, timeout=30) as sock:
            assert ask(sock, b"question") == b"question"
        mesh.plane.apply(Table((mesh.entry(*others, port=port),)))
    with client(port.published) as sock:
        asked = mesh.port_counts(port).failovers
        sock.send(b"question")
        eventually(
            lambda: mesh.port_counts(port).refused.no_backend, timeout=30, what="the question to be given up"
        )
    assert mesh.port_counts(port).failovers == asked + 199


def test_one_that_is_full_is_waited_for(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(*around(server(echo), 100, 0), policy=Policy(max_conn_backend=1))
    with exchange(mesh.port.published), mesh.connect() as sock:
        sock.sendall(b"second")
        eventually(lambda: mesh.port_counts().waited == 1, timeout=30, what="the second to wait")


def test_none_that_is_full_is_waited_for_when_all_fail(mesh: Mesh, server: MakeServer) -> None:
    closed = server(echo)
    closed.close()
    mesh.serve(*dead(100, closed.port), policy=Policy(max_conn_backend=1))
    with pytest.raises(ConnectionResetError), mesh.connect() as sock:
        sock.recv(1)
    assert mesh.port_counts().refused.no_backend == 1


def test_a_table_that_changes_meanwhile_begins_anew(mesh: Mesh, server: MakeServer) -> None:
    """Positions are others then: nobody of the new ones counts as tried."""
    up = server(echo)
    mesh.serve(*dead(200, up.port), policy=Policy(hold=60))
    with mesh.connect() as sock:
        eventually(lambda: mesh.port_counts().waited == 1, timeout=30, what="the client to wait")
        mesh.serve(*around(up, 70, 0), policy=Policy(hold=60))
        sock.sendall(b"here")
        assert sock.recv(4) == b"here"
