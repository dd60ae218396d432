"""A plane that lets go of its listeners, for another one on the same sockets."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
from datagrams import UdpServer, ask
from datagrams import client as udp_client
from mesh import Mesh, Server, echo, exactly
from waiting import eventually

from meshlb.model import Port, Protocol
from meshlb.plane import Plane
from meshlb.policy import Policy
from meshlb.ports.inherited import Inherited
from meshlb.ports.listen import Listeners
from meshlb.table import Table


class Next(Mesh):
    """The plane of the agent that takes over."""

    def __init__(self, before: Mesh, workers: int = 3) -> None:
        super().__init__()
        inherited = Inherited()
        inherited.add((name, tuple(each.dup() for each in sockets)) for name, sockets in before.plane.kept())
        self.plane.stop()
        self.plane = Plane(workers, listeners=Listeners(self.takeover, inherited=inherited))
        self.plane.start()
        self.port = before.port


@pytest.fixture
def after(mesh: Mesh) -> Iterator[Callable[..., Next]]:
    with contextlib.ExitStack() as stack:

        def make(**options: int) -> Next:
            made = Next(mesh, **options)
            stack.callback(made.close)
            return made

        yield make


def talk(mesh: Mesh) -> None:
    with mesh.connect() as client:
        client.sendall(b"hello")
        assert exactly(client, 5) == b"hello"


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_connections_stay_and_new_ones_go_to_the_other(
    mesh: Mesh, server: Callable[..., Server], after: Callable[..., Next], workers: int
) -> None:
    backend = server(echo).backend
    mesh.serve(backend)
    with mesh.connect() as client:
        client.sendall(b"one")
        assert exactly(client, 3) == b"one"
        accepted = mesh.counters().accepted
        heir = after(workers=workers)
        heir.serve(backend)
        mesh.plane.release()
        mesh.plane.leave()
        for _ in range(20):
            talk(heir)
        assert heir.counters().accepted == 20
        client.sendall(b"two")
        assert exactly(client, 3) == b"two"
        assert mesh.counters().accepted == accepted
        assert mesh.counters().open == 1
        # It follows the table still, and opens nothing again.
        assert [status.state for status in mesh.serve(backend)] == ["failed"]
        assert [status.state for status in mesh.plane.recheck()] == ["failed"]


def test_what_waits_for_a_backend_is_served_by_who_accepted_it(
    mesh: Mesh, server: Callable[..., Server], after: Callable[..., Next]
) -> None:
    mesh.serve(policy=Policy(hold=30))
    with mesh.connect() as client:
        client.sendall(b"held")
        eventually(lambda: mesh.counters().open == 1, timeout=10, what="the connection to be held")
        heir = after()
        heir.serve(policy=Policy(hold=30))
        mesh.plane.release()
        mesh.plane.leave()
        mesh.serve(server(echo).backend, policy=Policy(hold=30))
        assert exactly(client, 4) == b"held"


def test_what_waits_in_the_backlog_is_for_whoever_goes_on(mesh: Mesh, server: Callable[..., Server]) -> None:
    backend = server(echo).backend
    mesh.serve(backend)
    for _ in range(3):
        mesh.plane.release()
        with mesh.connect() as client:
            client.sendall(b"hello")
            mesh.plane.resume()
            assert exactly(client, 5) == b"hello"
    assert mesh.counters().accepted == 3


def test_answers_of_udp_that_are_under_way_are_passed_on(mesh: Mesh, after: Callable[..., Next]) -> None:
    asked, release = threading.Event(), threading.Event()

    def answer(data: bytes) -> tuple[bytes, ...]:
        if data == b"slow":
            asked.set()
            release.wait(30)
        return (data,)

    backend = UdpServer(answer)
    port = mesh.port = Port(mesh.port.published, 53, Protocol.UDP)
    table = Table((mesh.entry(backend.backend, policy=Policy(flow_timeout=5)),))
    try:
        mesh.plane.apply(table)
        with udp_client(port.published) as client:
            assert ask(client, b"one") == b"one"
            client.send(b"slow")
            assert asked.wait(30)
            heir = after()
            heir.plane.apply(table)
            mesh.plane.release()
            mesh.plane.leave()
            release.set()
            assert client.recv(100) == b"slow"
            assert ask(client, b"two") == b"two"
            assert heir.counters().accepted == 1
        eventually(lambda: mesh.counters().open == 0, timeout=30, what="the flow to end")
    finally:
        release.set()
        backend.close()
