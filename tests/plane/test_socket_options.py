"""What the kernel is told about both ends of a connection."""

from __future__ import annotations

import socket

from mesh import MakeServer, Mesh, echo
from sockets import facing


def say_twice(client: socket.socket) -> None:
    for _ in range(2):
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def test_small_writes_do_not_wait_for_each_other(mesh: Mesh, server: MakeServer) -> None:
    one = server(echo)
    mesh.serve(one.backend)
    with mesh.connect() as client:
        say_twice(client)
        for port in (client.getsockname()[1], one.port):
            with facing(port) as end:
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
