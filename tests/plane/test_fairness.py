"""A stream, or a flood of connections, does not starve a quiet connection of the same worker."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
from mesh import MIB, MakeServer
from plane_process import PlaneProcess, exchange
from strace import Call, traced
from waiting import eventually

PINGS = 300
STREAM = 256 * MIB
TURN = 8 * MIB  # of a connection's reads and writes, and again if it has become ready in the same turn
SPAWN = multiprocessing.get_context("spawn")  # the load has an interpreter of its own
Load = Callable[[int], None]


def serve(connection: socket.socket) -> None:
    """Echoes what is quiet, and takes what is not as fast as the kernel can throw it away."""
    while data := connection.recv(MIB):
        if data.strip(b"x"):
            while connection.recv(MIB, socket.MSG_TRUNC):
                pass
        connection.sendall(data)


def bulk(port: int) -> None:
    """Sends for as long as it lives."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        while True:
            sock.sendall(bytes(MIB))


def flood(port: int) -> None:
    """Connects, again and again."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
            sock.send(b"x")


def quiet(port: int) -> socket.socket:
    sock = exchange(port)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextlib.contextmanager
def loaded(load: Load, port: int, count: int = 3) -> Iterator[None]:
    processes: list[SpawnProcess] = [SPAWN.Process(target=load, args=(port,)) for _ in range(count)]
    for process in processes:
        process.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def p99s_of_pings(*connections: socket.socket) -> list[float]:
    """Seconds, of connections that say one byte at a time, in turn."""
    times: list[list[float]] = [[] for _ in connections]
    for _ in range(PINGS):
        for sock, of_sock in zip(connections, times, strict=True):
            begun = time.perf_counter()
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            of_sock.append(time.perf_counter() - begun)
        time.sleep(0.002)
    return [statistics.quantiles(of_sock, n=100)[98] for of_sock in times]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("load", [bulk, flood])
def test_quiet_connections_are_served_beside_busy_ones(server: MakeServer, load: Load) -> None:
    """Compared with one to the same server that does not pass through the plane.

    They are there before the load is: what a flood does to the server's own queue is not the plane's doing.
    """
    behind = server(serve)
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(contextlib.closing(PlaneProcess(behind.port)))
        direct = stack.enter_context(quiet(behind.port))
        through = [stack.enter_context(quiet(plane.port)) for _ in range(4)]  # some for each worker
        stack.enter_context(loaded(load, plane.port))
        p99_direct, *p99_through = p99s_of_pings(direct, *through)
    print(f"p99 {[round(p99 * 1e3, 2) for p99 in p99_through]} ms, direct {p99_direct * 1e3:.2f} ms")
    assert max(p99_through) < p99_direct * 20 + 0.5, "starved; each hop may have to wait for a core"


@pytest.mark.alone
@pytest.mark.slow
def test_a_worker_looks_at_others_after_some_bytes_of_a_stream(server: MakeServer, tmp_path: Path) -> None:
    """Measured in bytes, not in time: those read and written between two looks at its events."""
    behind = server(serve)
    with (
        contextlib.closing(PlaneProcess(behind.port)) as plane,
        loaded(bulk, plane.port, count=1),
        traced(plane.pid, tmp_path / "trace", "--string-limit=0") as calls,
    ):
        goal = plane.look()["tcp"]["received"] + STREAM
        eventually(lambda: plane.look()["tcp"]["received"] >= goal, timeout=60, what="a long stream")
    turns = bytes_of_turns(calls)
    print(f"{len(turns)} turns, of up to {max(turns) / MIB:.1f} MiB")
    assert sum(turns) >= STREAM
    assert max(turns) <= TURN


def bytes_of_turns(calls: list[Call]) -> list[int]:
    """Bytes that a worker has moved between two calls of epoll_wait, of all workers."""
    turns: dict[int, list[int]] = defaultdict(lambda: [0])
    for call in calls:
        if call.name == "epoll_wait" and call.begins:
            turns[call.thread].append(0)
        elif call.name in ("recvfrom", "sendto", "splice"):
            turns[call.thread][-1] += max(call.result or 0, 0)
    return [each for of_thread in turns.values() for each in of_thread]
