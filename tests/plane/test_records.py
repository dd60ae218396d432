"""The workers' records of connections that have ended: one for each, and lost rather than waited for."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

import pytest
from mesh import MakeServer, Mesh, exactly
from waiting import eventually

from meshlb.model import BackendState, Port, Protocol
from meshlb.policy import Policy
from meshlb.records import Ended
from meshlb.table import Backend, Entry, Table

RECORDS = 4096  # _record.pxd
LOGGED = Policy(access_log=True)
RESET = struct.pack("ii", 1, 0)


def answer(connection: socket.socket) -> None:
    connection.sendall(exactly(connection, 4) * 3)
    while connection.recv(100):
        pass


def taken(mesh: Mesh, count: int) -> list[Ended]:
    """The records, once there are so many."""
    found: list[Ended] = []

    def enough() -> bool:
        found.extend(mesh.plane.ended()[0])
        return len(found) >= count

    eventually(enough, timeout=10, what=f"{count} records")
    assert len(found) == count
    return found


def speak(mesh: Mesh, end: Callable[[socket.socket], None] = socket.socket.close) -> str:
    """One connection; gives the client's address."""
    with mesh.connect() as client:
        host, port = client.getsockname()[:2]
        client.sendall(b"ping")
        assert exactly(client, 12) == b"ping" * 3
        end(client)
    return f"{host}:{port}"


def refused(mesh: Mesh) -> None:
    with contextlib.suppress(ConnectionResetError), mesh.connect() as client:
        assert client.recv(1) == b""


def closed(mesh: Mesh, count: int) -> None:
    eventually(lambda: mesh.counters().closed == count, timeout=30, what=f"{count} to be closed")


def only_one(mesh: Mesh) -> bool:
    mesh.plane.recheck()
    return mesh.plane._forwarder.held()[1] == 1


def test_one_record_says_what_happened(mesh: Mesh, server: MakeServer) -> None:
    backend = server(answer).backend
    mesh.serve(backend, policy=LOGGED)
    client = speak(mesh)
    (one,) = taken(mesh, 1)
    assert (one.client, one.service, one.backend, one.reason) == (client, "web", backend, "done")
    assert (one.received, one.sent, one.attempts) == (4, 12, 1)
    assert one.connect is not None
    assert one.first_byte is not None
    assert 0 <= one.connect <= one.first_byte <= one.duration < 60
    assert mesh.plane.ended() == ([], 0)


def test_without_the_policy_there_is_none(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(answer).backend)
    speak(mesh)
    closed(mesh, 1)
    assert mesh.plane.ended() == ([], 0)


def test_reasons(mesh: Mesh, server: MakeServer) -> None:
    def rude(client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def bye(connection: socket.socket) -> None:
        exactly(connection, 4)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    mesh.serve(server(answer).backend, policy=LOGGED)
    speak(mesh, rude)
    assert [one.reason for one in taken(mesh, 1)] == ["client-reset"]
    mesh.serve(server(bye).backend, policy=LOGGED)
    with mesh.connect() as client:
        client.sendall(b"ping")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert [one.reason for one in taken(mesh, 1)] == ["backend-reset"]
    mesh.serve(policy=LOGGED)
    refused(mesh)
    (one,) = taken(mesh, 1)
    assert (one.reason, one.backend, one.connect) == ("no_backend", None, None)
    mesh.serve(server(answer).backend, policy=Policy(access_log=True, deny=("127.0.0.0/8",)))
    refused(mesh)
    assert [one.reason for one in taken(mesh, 1)] == ["denied"]


def test_a_failed_attempt_shows(mesh: Mesh, server: MakeServer) -> None:
    dead = server(answer)
    dead.close()
    mesh.serve(dead.backend, server(answer).backend, policy=LOGGED)
    for _ in range(2):
        speak(mesh)
    assert {one.attempts for one in taken(mesh, 2)} & {2}


@pytest.mark.parametrize("workers", [1])
def test_a_full_ring_loses_and_counts(mesh: Mesh) -> None:
    mesh.serve(policy=Policy(access_log=True, deny=("127.0.0.0/8",)))
    more = 50
    for _ in range(RECORDS + more):
        refused(mesh)
    closed(mesh, RECORDS + more)
    found, lost = mesh.plane.ended()
    assert (len(found), lost) == (RECORDS, more)
    assert mesh.plane.ended() == ([], 0)


def test_what_is_reaped_keeps_its_name(mesh: Mesh, server: MakeServer) -> None:
    """Numbers of backends are used again at once."""
    one, other = server(answer).backend, server(answer).backend
    mesh.serve(one, policy=LOGGED)
    speak(mesh)
    closed(mesh, 1)
    mesh.serve(other, policy=LOGGED)
    eventually(lambda: only_one(mesh), timeout=10, what="the old one to go")
    speak(mesh)
    assert [each.backend for each in taken(mesh, 2)] == [one, other]


def test_conversations_of_udp_have_records_too(mesh: Mesh) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        place = server.getsockname()
        port = Port(mesh.port.published, 53, Protocol.UDP)
        policy = Policy(access_log=True, flow_timeout=1)
        backend = Backend(place[0], place[1], "t", "dns.1", "", BackendState.UP)
        mesh.plane.apply(Table((Entry(port, "dns", policy, (backend,)),)))
        client.connect(("127.0.0.1", port.published))
        client.sendall(b"question")
        _, peer = server.recvfrom(100)
        server.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"
        (one,) = taken(mesh, 1)
        assert (one.received, one.sent, one.reason, one.backend) == (8, 6, "idle", backend)
