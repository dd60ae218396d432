"""What a connection costs: system calls while it is short, memory while it is idle."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from mesh import Handler, MakeServer, exactly
from plane_process import PlaneProcess, exchange, quiet_echo, raise_limit
from strace import traced
from waiting import eventually

CONNECTIONS = 200
IDLE = 5000


def connections(calls: list[str]) -> list[Counter[str]]:
    """The calls from each accept to the next one of a worker, waiting left out."""
    found: list[Counter[str]] = []
    for name in calls:
        if name == "accept4":
            found.append(Counter())
        if found and name not in ("epoll_wait", "futex"):
            found[-1][name] += 1
    return found[:-1]


def closes(connection: socket.socket) -> None:
    connection.recv(64)
    connection.sendall(bytes(100))


def waits(connection: socket.socket) -> None:
    closes(connection)
    connection.recv(1)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(("handle", "limit", "watched"), [(closes, 12, 1), (waits, 15, 2)])
def test_a_short_connection_takes_few_system_calls(
    server: MakeServer, tmp_path: Path, handle: Handler, limit: int, watched: int
) -> None:
    backend_port = server(handle).port
    # A client whose answer is late is watched: one more epoll_ctl, and a recv that finds nothing. That is an
    # accident of a slow machine, as long as it befalls less than half of them.
    runs = (calls_of_settled(backend_port, handle, tmp_path / f"trace-{run}") for run in range(4))
    total = next((run for run in runs if run["epoll_ctl"] < watched + 0.5), None)
    assert total is not None, "most clients are watched, in all of the runs"
    assert total.total() - 2 * max(0, total["epoll_ctl"] - watched) < limit + 0.5
    assert total["accept4"] <= 1.1, "none is spent on finding that nobody else is there"
    assert total["clock_gettime"] == 0


def calls_of_settled(backend_port: int, handle: Handler, trace: Path) -> Counter[str]:
    """System calls per connection once workers have learnt whether clients wait for their answers.

    On average, as what ends a connection may come after the next accept.
    """
    plane = PlaneProcess(backend_port)
    with contextlib.closing(plane), traced(plane.pid, trace) as calls:
        for _ in range(3):
            ask_often(plane, handle)
    of_workers: dict[int, list[str]] = defaultdict(list)
    for call in calls:
        if call.begins and call.thread != plane.pid:
            of_workers[call.thread].append(call.name)
    counted: list[Counter[str]] = []
    for of_worker in map(connections, of_workers.values()):
        counted += of_worker[len(of_worker) * 2 // 3 :]
    total = {name: count / len(counted) for name, count in sum(counted, Counter()).items()}
    print({name: round(count, 2) for name, count in total.items()})
    return Counter(total)


def ask_often(plane: PlaneProcess, handle: Handler) -> None:
    for _ in range(CONNECTIONS):
        with socket.create_connection(("127.0.0.1", plane.port), 30) as client:
            client.sendall(bytes(64))
            assert len(exactly(client, 100)) == 100
            if handle is closes:
                assert client.recv(1) == b""
    eventually(lambda: plane.look()["open"] == 0, timeout=30, what="the connections to end")


def bare_segments(connection: socket.socket) -> int:
    """Segments without data that a socket has received: tcpi_segs_in less tcpi_data_segs_in (linux/tcp.h)."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    segments, _, _, with_data = struct.unpack_from("=4I", info, 140)
    return int(segments - with_data)


def test_first_bytes_travel_with_the_last_packet_of_the_handshake(server: MakeServer) -> None:
    seen: list[int] = []

    def counts(connection: socket.socket) -> None:
        connection.recv(64)
        seen.append(bare_segments(connection))
        connection.sendall(bytes(100))

    backend_port = server(counts).port
    fewest = []
    with contextlib.closing(PlaneProcess(backend_port)) as plane:
        for port in (backend_port, plane.port):
            seen.clear()
            for _ in range(50):
                with socket.create_connection(("127.0.0.1", port), 30) as client:
                    client.sendall(bytes(64))
                    exactly(client, 100)
            fewest.append(min(seen))
    assert fewest[1] == fewest[0] - 1


@pytest.mark.alone
@pytest.mark.slow
def test_an_idle_connection_takes_little_memory() -> None:
    raise_limit()
    with quiet_echo() as backend_port, contextlib.ExitStack() as stack:
        plane = PlaneProcess(backend_port)
        stack.callback(plane.close)
        for _ in range(200):
            exchange(plane.port).close()
        eventually(lambda: plane.look()["open"] == 0, timeout=30, what="the first ones to end")
        before = plane.look()["memory"]
        for _ in range(IDLE):
            stack.enter_context(exchange(plane.port))
        after = plane.look()
    assert after["open"] == IDLE
    each = (after["memory"] - before) / IDLE
    print(f"{each:.0f} bytes for each idle connection")
    assert each <= 256
