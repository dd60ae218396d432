"""Tables change under load, ports come and go, and nobody who is connected notices."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import cycle

import pytest
from mesh import MakeServer, Mesh, backend, echo, exactly, free_port
from waiting import eventually

from meshlb.model import Port, PortState
from meshlb.plane import Plane
from meshlb.policy import Policy
from meshlb.ports.listen import Listeners
from meshlb.ports.takeover import Takeover
from meshlb.table import Backend, Entry, Table

ECHO_SERVER = """
import asyncio
class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(data)
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, '127.0.0.1', 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.connect_read_pipe(lambda: Until(loop), __import__('sys').stdin)
    await asyncio.sleep(300)
class Until(asyncio.Protocol):
    def __init__(self, loop): self.loop = loop
    def eof_received(self): __import__('os')._exit(0)
asyncio.run(main())
"""


def exchange(client: socket.socket, text: bytes) -> None:
    client.sendall(text)
    assert exactly(client, len(text)) == text


def test_a_thousand_tables_under_load(mesh: Mesh, server: MakeServer) -> None:
    servers = [server(echo) for _ in range(4)]
    tables = [servers, servers[:1], servers[1:], servers[::-1], servers[2:3]]
    mesh.serve(*(one.backend for one in servers))
    failures: list[BaseException] = []
    over = threading.Event()
    done = [0] * 4

    def churn(index: int) -> None:
        while not over.is_set():
            try:
                with mesh.connect() as client:
                    exchange(client, b"hello")
                done[index] += 1
            except (OSError, AssertionError) as error:
                failures.append(error)

    threads = [threading.Thread(target=churn, args=(index,)) for index in range(4)]
    with mesh.connect() as held:
        for thread in threads:
            thread.start()
        for _, chosen in zip(range(1000), cycle(tables), strict=False):
            mesh.serve(*(one.backend for one in chosen))
        eventually(lambda: min(done) > 50, timeout=30, what="every client to get its turn")
        over.set()
        for thread in threads:
            thread.join()
        exchange(held, b"still here")
    assert not failures
    assert mesh.counters().failed == 0


def test_a_connection_outlives_its_backend_and_its_port(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend)
    with mesh.connect() as client:
        exchange(client, b"one")
        mesh.serve(backend(free_port()))
        exchange(client, b"two")
        mesh.plane.apply(Table())
        exchange(client, b"three")
        with pytest.raises(ConnectionRefusedError):
            eventually_refused(mesh)
        exchange(client, b"four")


def eventually_refused(mesh: Mesh) -> None:
    """Connects until the port's listeners have gone."""
    for _ in range(1000):
        with contextlib.suppress(ConnectionResetError), mesh.connect() as client:
            client.sendall(b"x")
            client.recv(1)


def test_ports_come_and_go(mesh: Mesh, server: MakeServer) -> None:
    one, two = server(echo), server(echo)
    other = Port(free_port(), 80)
    for _ in range(20):
        mesh.plane.apply(Table((mesh.entry(one.backend), mesh.entry(two.backend, port=other))))
        for port in (mesh.port, other):
            with socket.create_connection(("127.0.0.1", port.published), 10) as client:
                exchange(client, b"here")
        mesh.plane.apply(Table((mesh.entry(one.backend),)))
        eventually(lambda: _refused(other), timeout=10, what="the port to close")


def _refused(port: Port) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port.published)) != 0


def test_a_port_that_is_taken_does_not_stop_the_others(mesh: Mesh, server: MakeServer) -> None:
    one = server(echo)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = Port(holder.getsockname()[1], 80)
        statuses = mesh.plane.apply(Table((mesh.entry(one.backend), mesh.entry(one.backend, port=taken))))
        assert [status.state for status in statuses] == [PortState.SERVING, PortState.FAILED]
        assert str(taken) in statuses[1].reason
        with mesh.connect() as client:
            exchange(client, b"serving")
    statuses = mesh.plane.recheck()
    assert [status.state for status in statuses] == [PortState.SERVING, PortState.SERVING]


def test_a_namespace_that_is_not_there_is_waited_for(mesh: Mesh, server: MakeServer) -> None:
    one = server(echo)
    missing = Table((mesh.entry(one.backend),), namespace="/nonexistent/ingress_sbox")
    [status] = mesh.plane.apply(missing)
    assert status.state is PortState.FAILED
    assert "dockerd" in status.reason
    [status] = mesh.serve(one.backend)
    assert status.state is PortState.SERVING
    with mesh.connect() as client:
        exchange(client, b"now")


def test_a_table_that_was_taken_by_half_is_taken_whole_the_next_time(
    mesh: Mesh, server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = [server(echo).backend for _ in range(3)]
    table, add = Table((mesh.entry(*backends),)), mesh.plane._add_backend

    def add_some(backend: Backend) -> int:
        if backend is backends[1]:
            raise MemoryError
        return add(backend)

    with monkeypatch.context() as patch:
        patch.setattr(mesh.plane, "_add_backend", add_some)
        with pytest.raises(MemoryError):
            mesh.plane.apply(table)
    mesh.plane.apply(table)
    assert list(mesh.backend_counts()) == backends


def test_closing_the_listeners_keeps_what_is_open(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend)
    with mesh.connect() as client:
        exchange(client, b"before")
        mesh.plane.close_listeners()
        eventually(lambda: _refused(mesh.port), timeout=10, what="the port to close")
        exchange(client, b"after")


def test_stopping_resets_what_is_open(server: MakeServer) -> None:
    plane = Plane(2, listeners=Listeners(Takeover("never")))
    plane.start()
    port = Port(free_port(), 80)
    plane.apply(Table((Entry(port, "web", Policy(), (server(echo).backend,)),)))
    with socket.create_connection(("127.0.0.1", port.published), 10) as client:
        exchange(client, b"hello")
        plane.stop()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert plane.counters().open == 0


@pytest.mark.slow
def test_five_thousand_connections_at_once(mesh: Mesh) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ECHO_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        mesh.serve(backend(int(process.stdout.readline())))
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(mesh.connect()) for _ in range(5000)]
            for number, client in enumerate(clients):
                client.sendall(number.to_bytes(4))
            for number, client in enumerate(clients):
                assert exactly(client, 4) == number.to_bytes(4)
            assert mesh.counters().open == 5000
        process.stdin.close()
    assert mesh.counters().failed == 0


def test_a_port_whose_target_changes_keeps_its_sockets(mesh: Mesh, server: MakeServer) -> None:
    def sockets() -> set[int]:
        return {os.fstat(one.fileno()).st_ino for _, found in mesh.plane.kept() for one in found}

    one = server(echo).backend
    mesh.serve(one)
    before = sockets()
    moved = replace(mesh.port, target=mesh.port.target + 1)
    (status,) = mesh.plane.apply(Table((mesh.entry(one, port=moved),)))
    assert (status.port, status.state) == (moved, PortState.SERVING)
    assert sockets() == before
    with mesh.connect() as client:
        exchange(client, b"still here")
    assert mesh.port_counts(moved).accepted == 1
