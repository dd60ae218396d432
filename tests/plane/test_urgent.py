"""Urgent data arrives as it does on a direct connection: the byte, and its mark."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from mesh import MakeServer, Mesh
from waiting import eventually

from meshlb.policy import Policy

SIOCATMARK = 0x8905


def at_mark(sock: socket.socket) -> bool:
    return bool(struct.unpack("i", fcntl.ioctl(sock, SIOCATMARK, bytes(4)))[0])


def inline(connection: socket.socket) -> Iterator[tuple[bytes, bool]]:
    """Every byte, and whether it was the marked one."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    while True:
        select.select([connection], [], [], 30)
        marked = at_mark(connection)
        byte = connection.recv(1)
        if not byte:
            return
        yield byte, marked


SCRIPTS = {
    "between": [(b"abc", 0), (b"!", socket.MSG_OOB), (b"def", 0)],
    "first": [(b"!", socket.MSG_OOB), (b"def", 0)],
    "last": [(b"abc", 0), (b"!", socket.MSG_OOB)],
}


@pytest.mark.parametrize("script", ["between", "last"])
def test_marks_are_kept(mesh: Mesh, server: MakeServer, script: str) -> None:
    seen: list[tuple[bytes, bool]] = []

    def record(connection: socket.socket) -> None:
        connection.sendall(b"go")
        seen.extend(inline(connection))

    mesh.serve(server(record).backend)
    with mesh.connect() as client:
        assert client.recv(2, socket.MSG_WAITALL) == b"go"
        for data, flags in SCRIPTS[script]:
            client.send(data, flags)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    sent = b"".join(data for data, _ in SCRIPTS[script])
    assert b"".join(byte for byte, _ in seen) == sent
    assert [byte for byte, marked in seen if marked] == [b"!"]


def test_marks_are_kept_towards_the_client(mesh: Mesh, server: MakeServer) -> None:
    def send(connection: socket.socket) -> None:
        connection.recv(1)
        for data, flags in SCRIPTS["between"]:
            connection.send(data, flags)

    mesh.serve(server(send).backend)
    with mesh.connect() as client:
        client.sendall(b"x")
        seen = list(inline(client))
    assert b"".join(byte for byte, _ in seen) == b"abc!def"
    assert [byte for byte, marked in seen if marked] == [b"!"]


def test_a_lone_urgent_byte_from_the_server_does_not_wait_for_the_next_one(
    mesh: Mesh, server: MakeServer
) -> None:
    def send(connection: socket.socket) -> None:
        connection.recv(1)
        connection.send(b"!", socket.MSG_OOB)
        connection.recv(1)

    mesh.serve(server(send).backend)
    with mesh.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        client.sendall(b"x")
        assert client.recv(1) == b"!"


def test_urgent_data_of_a_client_that_waits(mesh: Mesh, server: MakeServer) -> None:
    seen: list[tuple[bytes, bool]] = []
    mesh.serve(policy=Policy(hold=60))
    with mesh.connect() as client:
        eventually(lambda: mesh.port_counts().waited == 1, timeout=30, what="the client to wait")
        for data, flags in SCRIPTS["between"]:
            client.send(data, flags)
        time.sleep(0.2)  # epoll has told of it by then, and will not again
        mesh.serve(server(lambda connection: seen.extend(inline(connection))).backend)
        eventually(lambda: len(seen) == 7, timeout=30, what="all bytes to arrive")
    assert b"".join(byte for byte, _ in seen) == b"abc!def"
    assert [byte for byte, marked in seen if marked] == [b"!"]
