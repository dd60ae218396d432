"""A port that is for some of the node's addresses only."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from datagrams import UdpServer, ask
from mesh import MakeServer, Mesh, echo, free_port
from waiting import eventually

from meshlb.model import Port, PortState, Protocol
from meshlb.plane import Plane
from meshlb.policy import Policy
from meshlb.ports.listen import Listeners
from meshlb.table import Table

HERE = Policy(listen=("127.0.0.1/32", "127.0.0.2/32", "::1/128"))


def answers(mesh: Mesh, address: str) -> bool:
    """Whether the port is served there; otherwise it must be refused, as one that is not published."""
    try:
        sock = mesh.connect(address=address)
    except ConnectionRefusedError:
        return False
    with sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    return True


def answering(mesh: Mesh, *addresses: str) -> list[bool]:
    return [answers(mesh, address) for address in addresses]


def await_answering(mesh: Mesh, addresses: list[str], expected: list[bool]) -> None:
    """The workers close sockets in their own time, and may then reset who waits in them."""

    def is_so() -> bool:
        with contextlib.suppress(ConnectionResetError):
            return answering(mesh, *addresses) == expected
        return False

    eventually(is_so, timeout=10, what=f"{addresses} to be answered: {expected}")


def test_only_its_addresses_are_served_by_all_workers(mesh: Mesh, server: MakeServer) -> None:
    up = server(echo)
    [status] = mesh.serve(up.backend, policy=HERE)
    assert (status.state, status.reason) == (PortState.SERVING, "")
    for _ in range(20):  # so that each worker's socket has its turn
        assert answering(mesh, "127.0.0.1", "127.0.0.2", "::1", "127.0.0.3") == [True, True, True, False]
    assert mesh.counters().accepted == 60


def test_each_worker_has_a_socket_of_each_address() -> None:
    given: list[tuple[int, int]] = []
    forwarder = SimpleNamespace(listen=lambda worker, port, fd: given.append((worker, fd)))
    plane = cast(Plane, SimpleNamespace(_forwarder=forwarder, workers=2))
    sockets = [SimpleNamespace(detach=lambda fd=fd: fd) for fd in range(4)]  # of two addresses
    Plane._listen(plane, cast(Any, SimpleNamespace(port_id=0, first=0)), cast(Any, tuple(sockets)))
    assert given == [(0, 0), (1, 1), (0, 2), (1, 3)]


def test_another_process_may_have_the_port_elsewhere(mesh: Mesh, server: MakeServer) -> None:
    up = server(echo)
    with socket.create_server(("127.0.0.3", mesh.port.published)) as other:
        [status] = mesh.serve(up.backend, policy=HERE)
        assert status.state is PortState.SERVING
        with mesh.connect(address="127.0.0.3"):
            connection, _ = other.accept()
            connection.close()


def test_addresses_change_with_the_policy_and_connections_go_on(mesh: Mesh, server: MakeServer) -> None:
    up = server(echo)
    mesh.serve(up.backend)
    with mesh.connect(address="127.0.0.3") as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        mesh.serve(up.backend, policy=HERE)
        await_answering(mesh, ["127.0.0.1", "127.0.0.3"], [True, False])
        mesh.serve(up.backend, policy=replace(HERE, listen=("127.0.0.3/32",)))
        await_answering(mesh, ["127.0.0.1", "127.0.0.3"], [False, True])
        mesh.serve(up.backend)
        await_answering(mesh, ["127.0.0.1", "127.0.0.3", "::1"], [True, True, True])
        sock.sendall(b"y")
        assert sock.recv(1) == b"y"


def test_an_address_that_comes_later_is_served(mesh: Mesh, server: MakeServer) -> None:
    up, own = server(echo), {"127.0.0.1"}
    mesh.plane.stop()
    mesh.plane = Plane(2, listeners=Listeners(mesh.takeover, addresses=lambda: frozenset(own)))
    mesh.plane.start()
    mesh.serve(up.backend, policy=Policy(listen=("127.0.0.0/24",)))
    assert answering(mesh, "127.0.0.1", "127.0.0.2") == [True, False]
    own.add("127.0.0.2")
    mesh.plane.recheck()
    eventually(lambda: answers(mesh, "127.0.0.2"), timeout=10, what="the new address to be served")
    own.remove("127.0.0.1")
    mesh.plane.recheck()
    assert answering(mesh, "127.0.0.1", "127.0.0.2") == [True, True]  # it might be back at any time


def udp_client(address: str, number: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(10)
    sock.connect((address, number))
    return sock


def test_datagrams_are_answered_at_its_addresses_alone(mesh: Mesh) -> None:
    server, port = UdpServer(), Port(free_port(), 53, Protocol.UDP)
    try:
        mesh.plane.apply(Table((mesh.entry(server.backend, port=port, policy=HERE),)))
        for address in ("127.0.0.1", "127.0.0.2", "::1"):
            with udp_client(address, port.published) as sock:
                assert ask(sock, b"?") == b"?"
        with udp_client("127.0.0.3", port.published) as sock:
            sock.send(b"?")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(10)
        with contextlib.ExitStack() as stack:
            mesh.plane.apply(Table((mesh.entry(server.backend, port=port),)))
            assert ask(stack.enter_context(udp_client("127.0.0.3", port.published)), b"!") == b"!"
    finally:
        server.close()
