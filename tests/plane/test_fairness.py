"""A stream, or a flood of connections, does not starve a quiet connection of the same worker."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess

import pytest
from mesh import MIB, MakeServer, echo
from plane_process import PlaneProcess, exchange

PINGS = 300
SPAWN = multiprocessing.get_context("spawn")  # the load has an interpreter of its own
Load = Callable[[int], None]


def stream(port: int) -> None:
    """Sends for as long as it lives, and has it sent back."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setblocking(False)
        while True:
            with contextlib.suppress(BlockingIOError):
                sock.send(bytes(MIB))
            with contextlib.suppress(BlockingIOError):
                sock.recv(MIB)


def lazy_reader(port: int) -> None:
    """Sends for as long as it lives, and never reads what comes back."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        while True:
            sock.send(bytes(MIB))


def flood(port: int) -> None:
    """Connects, again and again."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
            sock.send(b"x")


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


def p99_of_pings(port: int) -> float:
    """Seconds, of a connection that says one byte at a time."""
    with exchange(port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        for _ in range(PINGS):
            begun = time.perf_counter()
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            times.append(time.perf_counter() - begun)
            time.sleep(0.002)
    return statistics.quantiles(times, n=100)[98]


@pytest.mark.slow
@pytest.mark.parametrize("load", [stream, lazy_reader, flood])
def test_a_quiet_connection_is_served_beside_a_busy_one(server: MakeServer, load: Load) -> None:
    """Compared with a connection beside the same load that does not pass through the plane."""
    behind = server(echo)
    with contextlib.closing(PlaneProcess(behind.port)) as plane, loaded(load, plane.port):
        through, direct = p99_of_pings(plane.port), p99_of_pings(behind.port)
    print(f"p99 {through * 1e3:.2f} ms, direct {direct * 1e3:.2f} ms")
    assert through < direct * 10 + 0.1
