"""Reading what was counted: all of a large table at once, and cheaply."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
from cpu_time import cpu_of
from mesh import MakeServer, Mesh, backend, echo, full_listener
from waiting import eventually

from meshlb.model import Port
from meshlb.policy import Policy
from meshlb.table import Entry, Table

PORTS, BACKENDS = 200, 50


def large() -> Table:
    backends = [backend(1 + number, "127.0.0.9") for number in range(BACKENDS)]
    return Table(
        tuple(Entry(Port(20_000 + number, 80), "web", Policy(), tuple(backends)) for number in range(PORTS))
    )


@pytest.mark.alone
@pytest.mark.slow
def test_reading_all_makes_no_object_of_each_number(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh.plane, "_open_closed", lambda: None)  # 200 ports would need 400 sockets
    mesh.plane.apply(large())
    reading = cpu_of(mesh.plane.statistics)
    statistics = mesh.plane.statistics()
    decoding = cpu_of(lambda: list(statistics.of_backends()))
    assert len(statistics.backends) == PORTS * BACKENDS
    assert reading < decoding / 4, (reading, decoding)


def test_lost_packets_are_counted(mesh: Mesh) -> None:
    """The way to the backend loses a SYN: its queue is full until that has been sent."""
    with full_listener(fillers=1) as listener, contextlib.ExitStack() as stack:
        behind = backend(listener.getsockname()[1])
        mesh.serve(behind)
        stack.enter_context(mesh.connect())
        eventually(lambda: is_syn_sent(behind.port), timeout=10, what="an attempt that is not answered")
        listener.settimeout(30)
        for _ in range(2):  # who filled the queue, then who is tried again
            stack.enter_context(listener.accept()[0])
        eventually(lambda: mesh.backend_counts()[behind].sampled, timeout=10, what="a look at it")
        assert mesh.backend_counts()[behind].retransmitted >= 1


def is_syn_sent(port: int) -> bool:
    """Whether a connection to the port of 127.0.0.1 has sent its SYN and got no answer."""
    return f" 0100007F:{port:04X} 02 " in Path("/proc/net/tcp").read_text()


def test_every_row_is_its_own_backends(mesh: Mesh, server: MakeServer) -> None:
    servers = [server(echo) for _ in range(3)]
    mesh.serve(*(each.backend for each in servers))
    for number in range(6):
        with mesh.connect() as client:
            client.sendall(b"x" * (1 + number % 3))
            client.shutdown(socket.SHUT_WR)
            while client.recv(10):
                pass
    eventually(lambda: mesh.counters().open == 0, timeout=10, what="all to be closed")
    counts = mesh.backend_counts()
    assert [counts[each.backend].connected for each in servers] == [2, 2, 2]
    assert sorted(of.received for of in counts.values()) == [2, 4, 6]
    assert all(sum(of.duration.buckets) == 2 and of.active == 0 for of in counts.values())
    of_port = mesh.port_counts()
    assert (of_port.accepted, of_port.received, sum(of_port.duration.buckets)) == (6, 12, 6)


def test_what_a_row_adds_up_is_what_is_in_its_buckets(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend)
    for _ in range(3):
        with mesh.connect() as client:
            client.sendall(b"x")
            assert client.recv(10) == b"x"
    eventually(lambda: mesh.counters().open == 0, timeout=10, what="all to be closed")
    statistics = mesh.plane.statistics()
    ((_, bare),) = statistics.of_backends_bare()
    ((_, _, counts),) = statistics.of_backends()
    for at, times in zip((11, 13, 15), (counts.connect, counts.first_byte, counts.duration), strict=True):
        assert bare[at : at + 2] == (times.total, sum(times.buckets)) == (times.total, 3)


def test_turns_of_workers_are_counted_and_some_are_timed(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend)
    before = sum(turns for turns, _ in mesh.plane.statistics().of_workers())
    with mesh.connect() as client:
        for _ in range(300):
            client.sendall(b"x")
            assert client.recv(10) == b"x"
    counted = list(mesh.plane.statistics().of_workers())
    assert sum(turns for turns, _ in counted) - before >= 300
    for turns, times in counted:
        assert sum(times.buckets) == turns // 64
