"""Active checks of real backends."""

from __future__ import annotations

import socket
import time

import pytest
from datagrams import UdpServer, ask, client
from mesh import MakeServer, Mesh, Server, backend, echo, free_port
from waiting import eventually

from meshlb.model import BackendCounts, Port, Protocol
from meshlb.policy import Policy
from meshlb.table import Backend, Table

CHECKED = Policy(check="tcp", check_interval=0.1)


def counts(mesh: Mesh, of: Backend) -> BackendCounts:
    return mesh.backend_counts()[of]


def await_failing(mesh: Mesh, of: Backend, failing: bool = True) -> None:
    eventually(lambda: counts(mesh, of).aside is failing, timeout=20, what=f"failing to be {failing}")


def served_by(mesh: Mesh, server: Server, rounds: int) -> None:
    before = server.accepted
    for _ in range(rounds):
        with mesh.connect() as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
    assert server.accepted == before + rounds


def test_a_backend_that_does_not_listen_gets_no_connection(mesh: Mesh, server: MakeServer) -> None:
    up, down = server(echo), backend(free_port())
    mesh.serve(up.backend, down, policy=CHECKED)
    await_failing(mesh, down)
    served_by(mesh, up, 10)
    assert counts(mesh, down).chosen == 0
    assert not counts(mesh, up.backend).aside


def test_an_interval_that_is_shortened_counts_at_once(mesh: Mesh, server: MakeServer) -> None:
    up, down = server(echo), backend(free_port())
    mesh.serve(up.backend, down, policy=Policy(check="tcp", check_interval=3600))
    time.sleep(1.5)  # the first look is soon
    mesh.serve(up.backend, down, policy=CHECKED)
    await_failing(mesh, down)


def test_it_comes_back(mesh: Mesh, server: MakeServer) -> None:
    up, number = server(echo), free_port()
    mesh.serve(up.backend, backend(number), policy=CHECKED)
    await_failing(mesh, backend(number))
    with socket.create_server(("127.0.0.1", number)):
        await_failing(mesh, backend(number), False)


def test_a_backend_that_swallows_handshakes_fails(mesh: Mesh, server: MakeServer) -> None:
    up = server(echo)
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())  # takes the one place in its queue
        silent = backend(full.getsockname()[1])
        mesh.serve(up.backend, silent, policy=CHECKED)
        await_failing(mesh, silent)


def test_a_server_sees_nothing_of_its_checks(mesh: Mesh, server: MakeServer) -> None:
    up = server(echo)
    down = backend(free_port())
    mesh.serve(up.backend, down, policy=CHECKED)
    await_failing(mesh, down)  # by then the other has been looked at as often

    def sees_nothing() -> bool:
        before = up.accepted
        time.sleep(0.5)  # five checks
        return up.accepted == before

    # A plane that is held up for longer than the kernel delays an acknowledgement completes a handshake.
    eventually(sees_nothing, timeout=20, what="checks that the server does not see")


def test_when_all_fail_all_are_tried(mesh: Mesh, server: MakeServer) -> None:
    numbers = [free_port(), free_port()]
    mesh.serve(*map(backend, numbers), policy=Policy(check="tcp", check_interval=0.1, check_rise=100))
    for number in numbers:
        await_failing(mesh, backend(number))
    with socket.create_server(("127.0.0.1", numbers[1])) as late, mesh.connect() as sock:
        late.settimeout(10)
        connection, _ = late.accept()
        with connection:
            sock.sendall(b"x")
            assert connection.recv(1) == b"x"


@pytest.mark.parametrize("policy", [Policy(), Policy(check="none", check_interval=0.1)])
def test_what_is_checked_no_more_counts_as_good(mesh: Mesh, policy: Policy) -> None:
    down = backend(free_port())
    mesh.serve(down, policy=CHECKED)
    await_failing(mesh, down)
    mesh.serve(down, policy=policy)
    await_failing(mesh, down, False)


def test_checks_end_with_their_backends(mesh: Mesh, server: MakeServer) -> None:
    """That ports and backends are given back is looked at by the fixture."""
    up = server(echo)
    many = [backend(free_port()) for _ in range(40)]
    mesh.serve(up.backend, *many, policy=CHECKED)
    for one in many:
        await_failing(mesh, one)
    mesh.serve(up.backend, policy=CHECKED)
    served_by(mesh, up, 10)


def test_datagrams_are_not_checked(mesh: Mesh) -> None:
    server = UdpServer()
    try:
        port = Port(free_port(), 53, Protocol.UDP)
        down = backend(free_port())
        mesh.plane.apply(
            Table((mesh.entry(down, policy=CHECKED), mesh.entry(server.backend, port=port, policy=CHECKED)))
        )
        await_failing(mesh, down)
        with client(port.published) as sock:
            assert ask(sock, b"?") == b"?"
        (of_udp,) = mesh.backend_counts(port).values()
        assert not of_udp.aside
    finally:
        server.close()
