"""Bytes, half-closes and resets through the plane are those of a direct connection."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time

import pytest
from mesh import MIB, MakeServer, Mesh, backend, echo, exactly, reset
from plane_process import PlaneProcess
from waiting import eventually

PATTERN = bytes(
    (i * 7 + (i >> 8)) & 255 for i in range(65521)
)  # a prime length: no offset looks like another
LONG_PATTERN = memoryview(PATTERN * 66)


def send_pattern(connection: socket.socket, size: int) -> None:
    sent = 0
    while sent < size:
        start = sent % len(PATTERN)
        chunk = min(4 * MIB, size - sent)
        connection.sendall(LONG_PATTERN[start : start + chunk])
        sent += chunk


def check_pattern(connection: socket.socket, size: int) -> None:
    """Reads exactly `size` bytes of the pattern, then the end of the stream."""
    buffer = memoryview(bytearray(MIB))
    got = 0
    while count := connection.recv_into(buffer):
        start = got % len(PATTERN)
        assert buffer[:count] == LONG_PATTERN[start : start + count], f"wrong bytes after {got}"
        got += count
    assert got == size


def both_ways(connection: socket.socket, size: int) -> None:
    """Sends the pattern, ends its half, and expects the same from the other side."""

    def upload() -> None:
        send_pattern(connection, size)
        connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=upload)
    sender.start()
    try:
        check_pattern(connection, size)
    finally:
        sender.join()


@pytest.mark.slow
def test_a_gibibyte_both_ways_at_once(mesh: Mesh, server: MakeServer) -> None:
    size = 1024 * MIB
    backend = server(lambda connection: both_ways(connection, size))
    mesh.serve(backend.backend)
    with mesh.connect() as client:
        both_ways(client, size)
    eventually(lambda: mesh.counters().open == 0, timeout=10, what="the connection to close")
    assert mesh.counters().received == mesh.counters().sent == size
    assert not backend.errors
    assert mesh.plane._forwarder.pipes()[0] > 0, "a long stream is spliced"


@pytest.mark.parametrize(("size", "spliced"), [(8 << 10, False), ((64 << 10) + 68, True)])
def test_large_answers_are_spliced(mesh: Mesh, server: MakeServer, size: int, spliced: bool) -> None:
    def answer(connection: socket.socket) -> None:
        while connection.recv(16):
            connection.sendall(LONG_PATTERN[:size])

    mesh.serve(server(answer).backend)
    with mesh.connect() as client:
        for _ in range(50):
            client.sendall(b"?")
            assert exactly(client, size) == LONG_PATTERN[:size]
    assert (mesh.plane._forwarder.pipes()[0] > 0) == spliced


def test_streams_to_slow_readers_leave_descriptors_to_clients(server: MakeServer) -> None:
    """Of 1,024 descriptors pipes take 60 at most; the other streams are copied."""
    size, streams = 4 * MIB, 100
    backend = server(lambda connection: send_pattern(connection, size))
    with (
        contextlib.closing(PlaneProcess(backend.port, descriptors=1024)) as plane,
        contextlib.ExitStack() as stack,
    ):
        before = plane.look()["descriptors"]
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", plane.port), 30))
            for _ in range(streams)
        ]
        eventually(lambda: backend.accepted == streams, timeout=60, what="all to be served")
        stalled(plane)
        assert before + 2 * streams < plane.look()["descriptors"] <= before + 2 * streams + 60
        for client in clients:
            check_pattern(client, size)


def stalled(plane: PlaneProcess) -> None:
    """Waits until no more bytes pass."""
    seen = [-1]

    def same() -> bool:
        seen.append(plane.look()["tcp"]["sent"])
        time.sleep(0.2)
        return 0 < seen[-1] == seen[-2]

    eventually(same, timeout=60, what="all streams to stall")


def test_small_writes_arrive_one_by_one(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend)
    with mesh.connect() as client:
        for byte in range(256):
            client.sendall(bytes([byte]))
            assert client.recv(16) == bytes([byte])


def test_the_server_speaks_first(mesh: Mesh, server: MakeServer) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        echo(connection)

    mesh.serve(server(greet).backend)
    with mesh.connect() as client:
        assert client.recv(64) == b"220 ready\r\n"
        client.sendall(b"hello")
        assert client.recv(64) == b"hello"


def test_the_client_ends_its_half_first(mesh: Mesh, server: MakeServer) -> None:
    def answer_after_eof(connection: socket.socket) -> None:
        check_pattern(connection, 3 * MIB)
        send_pattern(connection, 5 * MIB)

    backend = server(answer_after_eof)
    mesh.serve(backend.backend)
    with mesh.connect() as client:
        send_pattern(client, 3 * MIB)
        client.shutdown(socket.SHUT_WR)
        check_pattern(client, 5 * MIB)
    backend.close()
    assert not backend.errors


def test_the_server_ends_its_half_first(mesh: Mesh, server: MakeServer) -> None:
    def end_then_read(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        check_pattern(connection, 3 * MIB)

    backend = server(end_then_read)
    mesh.serve(backend.backend)
    with mesh.connect() as client:
        assert client.recv(64) == b"bye"
        assert client.recv(64) == b""
        send_pattern(client, 3 * MIB)
    backend.close()
    assert not backend.errors


def test_a_fin_with_the_first_bytes(mesh: Mesh, server: MakeServer) -> None:
    def swallow(connection: socket.socket) -> None:
        assert connection.recv(64) == b"all of it"
        assert connection.recv(64) == b""
        connection.sendall(b"thanks")

    backend = server(swallow)
    mesh.serve(backend.backend)
    with mesh.connect() as client:
        client.sendall(b"all of it")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(64) == b"thanks"
        assert client.recv(64) == b""
    backend.close()
    assert not backend.errors


def test_a_connection_that_says_nothing(mesh: Mesh, server: MakeServer) -> None:
    backend = server(echo)
    mesh.serve(backend.backend)
    for _ in range(20):
        mesh.connect().close()
    eventually(lambda: mesh.counters().closed == 20, timeout=10, what="all to close")
    assert mesh.counters().failed == 0


def test_the_servers_reset_reaches_the_client(mesh: Mesh, server: MakeServer) -> None:
    def greet_and_reset(connection: socket.socket) -> None:
        connection.sendall(b"partial")
        connection.recv(64)
        reset(connection)

    mesh.serve(server(greet_and_reset).backend)
    with mesh.connect() as client:
        assert client.recv(64) == b"partial"
        client.sendall(b"go")
        with pytest.raises(ConnectionResetError):
            client.recv(64)


def test_the_clients_reset_reaches_the_server(mesh: Mesh, server: MakeServer) -> None:
    seen: list[str] = []

    def wait_for_reset(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        try:
            connection.recv(64)
        except ConnectionResetError:
            seen.append("reset")

    backend = server(wait_for_reset)
    mesh.serve(backend.backend)
    client = mesh.connect()
    assert client.recv(64) == b"hello"
    reset(client)
    backend.close()
    assert seen == ["reset"]


def test_a_reset_passes_a_stalled_reader(mesh: Mesh, server: MakeServer) -> None:
    """The client has stopped reading; the server's death must not wait for it."""

    def flood_until_stuck(connection: socket.socket) -> None:
        connection.settimeout(1)
        try:
            while True:
                connection.sendall(bytes(MIB))
        except TimeoutError:
            reset(connection)

    mesh.serve(server(flood_until_stuck).backend)
    client = mesh.connect()
    eventually(lambda: mesh.counters().closed == 1, timeout=30, what="the reset to be passed on")
    client.close()


def test_bytes_before_a_reset_are_delivered(mesh: Mesh, server: MakeServer) -> None:
    """A server that answers and closes with unread data resets: its answer still arrives."""

    def refuse_upload(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"413 too large")
        time.sleep(0.3)

    mesh.serve(server(refuse_upload).backend)
    with mesh.connect() as client:
        client.sendall(bytes(100_000))
        assert client.recv(64) == b"413 too large"


def test_a_slow_reader_gets_every_byte(mesh: Mesh, server: MakeServer) -> None:
    backend = server(lambda connection: send_pattern(connection, 24 * MIB))
    mesh.serve(backend.backend)
    with mesh.connect() as client:
        eventually(lambda: _stands_still(mesh), timeout=30, what="all buffers to be full")
        check_pattern(client, 24 * MIB)


def _stands_still(mesh: Mesh) -> bool:
    before = mesh.counters().sent
    time.sleep(0.3)
    return 0 < before == mesh.counters().sent


def test_a_backend_that_is_killed_mid_stream(mesh: Mesh) -> None:
    """The kernel resets or ends a dead process's connections: the client learns it as directly."""
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "c, _ = s.accept()\n"
        "while True: c.sendall(bytes(65536))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        mesh.serve(backend(int(process.stdout.readline())))
        with mesh.connect() as client:
            assert client.recv(100)
            process.kill()
            with contextlib.suppress(ConnectionResetError):
                while client.recv(MIB):
                    pass


def test_ipv6_on_both_sides(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo, socket.AF_INET6).backend)
    for address in ("::1", "127.0.0.1"):
        with mesh.connect(address=address) as client:
            client.sendall(b"six")
            assert client.recv(16) == b"six"
