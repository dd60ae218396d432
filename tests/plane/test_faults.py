"""What goes wrong around the plane: resets at every moment, urgent data, no descriptors left, forks."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from mesh import MIB, MakeServer, Mesh, echo, reset
from waiting import eventually

Connect = Callable[[], socket.socket]


def hung_up(connection: socket.socket, seconds: float = 10) -> bool:
    """Whether the kernel tells that the connection is dead, without anybody reading or writing."""
    poll = select.poll()
    poll.register(connection, select.POLLERR | select.POLLHUP)
    return bool(poll.poll(seconds * 1000))


def outcome(connect: Connect) -> str:
    """What a client sees of a server that answers and resets in one go."""
    with connect() as client:
        client.sendall(b"x")
        time.sleep(0.005)
        try:
            while client.recv(64):
                pass
        except ConnectionResetError:
            return "reset"
        return "end"


def test_an_answer_with_a_reset_at_its_heels_is_no_clean_end(mesh: Mesh, server: MakeServer) -> None:
    def answer_and_reset(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(b"partial")
        reset(connection)

    mesh.serve(server(answer_and_reset).backend)
    assert Counter(outcome(mesh.connect) for _ in range(200)) == {"reset": 200}


def test_the_clients_reset_after_its_fin_reaches_a_silent_server(mesh: Mesh, server: MakeServer) -> None:
    told: list[bool] = []
    ended = threading.Event()

    def read_and_wait(connection: socket.socket) -> None:
        while connection.recv(64):
            pass
        ended.set()
        told.append(hung_up(connection))

    backend = server(read_and_wait)
    mesh.serve(backend.backend)
    client = mesh.connect()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert ended.wait(30)
    reset(client)
    backend.close()
    assert told == [True]


def test_the_servers_reset_after_its_fin_reaches_a_silent_client(mesh: Mesh, server: MakeServer) -> None:
    heard = threading.Event()

    def end_and_reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.shutdown(socket.SHUT_WR)
        assert heard.wait(30)
        reset(connection)

    mesh.serve(server(end_and_reset).backend)
    with mesh.connect() as client:
        client.sendall(b"q")
        assert client.recv(1) == b""
        heard.set()
        assert hung_up(client)


def test_urgent_data_does_not_stop_a_stream(mesh: Mesh, server: MakeServer) -> None:
    received = [0]

    def count(connection: socket.socket) -> None:
        while data := connection.recv(MIB):
            received[0] += len(data)

    backend = server(count)
    mesh.serve(backend.backend)
    with mesh.connect() as client:
        for _ in range(20):
            client.sendall(bytes(MIB))
        client.send(b"!", socket.MSG_OOB)
        for _ in range(20):
            client.sendall(bytes(MIB))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    backend.close()
    assert received[0] in (40 * MIB, 40 * MIB + 1)


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """The process can open `count` more descriptors and no other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("left", [0, 1])
def test_without_descriptors_clients_wait(mesh: Mesh, server: MakeServer, left: int) -> None:
    mesh.serve(server(echo).backend)
    with mesh.connect() as established, socket.socket() as client:
        established.sendall(b"before")
        assert established.recv(16) == b"before"
        client.settimeout(30)
        with descriptors_left(left):
            client.connect(("127.0.0.1", mesh.port.published))
            client.sendall(b"waiting")
            time.sleep(0.3)
            established.sendall(b"meanwhile")
            assert established.recv(16) == b"meanwhile"
            assert mesh.counters().failed == 0
        assert client.recv(16) == b"waiting"
    assert mesh.counters().failed == 0


def test_forks_under_load(mesh: Mesh, server: MakeServer) -> None:
    """A child shares every socket until it execs, so that what is closed meanwhile is not gone yet.

    The sanitizers' builds are what makes this test strict.
    """
    mesh.serve(server(echo).backend, server(echo).backend)
    over = threading.Event()
    failures: list[BaseException] = []

    def churn() -> None:
        while not over.is_set():
            try:
                with mesh.connect() as client:
                    client.sendall(b"hello")
                    assert client.recv(16) == b"hello"
                    reset(client)
            except (OSError, AssertionError) as error:
                failures.append(error)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        subprocess.run(["true"], check=True)
    over.set()
    for thread in threads:
        thread.join()
    assert not failures
    eventually(lambda: mesh.counters().open == 0, timeout=10, what="all to close")
