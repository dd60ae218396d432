"""What a connection costs: system calls while it is short, memory while it is idle."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import statistics
import subprocess
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh import Handler, MakeServer, exactly
from plane_process import PlaneProcess, raise_limit
from waiting import eventually

CONNECTIONS = 200
IDLE = 5000


@contextlib.contextmanager
def traced(plane: PlaneProcess, into: Path) -> Iterator[dict[int, list[str]]]:
    """The system calls of each of the plane's workers, in order; complete when the block has ended."""
    calls: dict[int, list[str]] = defaultdict(list)
    command = ["strace", "-f", f"--attach={plane.pid}", "--output", str(into)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert strace.stderr
    assert "attached" in strace.stderr.readline()
    yield calls
    strace.send_signal(signal.SIGINT)
    strace.communicate(timeout=30)
    for line in into.read_text().splitlines():
        thread, _, call = line.partition(" ")
        if int(thread) != plane.pid and "resumed>" not in call and "(" in call:
            calls[int(thread)].append(call.strip().partition("(")[0])


def connections(calls: dict[int, list[str]]) -> Iterator[Counter[str]]:
    """The calls from each accept to the next one of the same worker, waiting left out."""
    for of_worker in calls.values():
        connection: Counter[str] | None = None
        for name in of_worker:
            if name == "accept4":
                if connection:
                    yield connection
                connection = Counter()
            if connection is not None and name not in ("epoll_wait", "futex"):
                connection[name] += 1


def closes(connection: socket.socket) -> None:
    connection.recv(64)
    connection.sendall(bytes(100))


def waits(connection: socket.socket) -> None:
    closes(connection)
    connection.recv(1)


@pytest.mark.slow
@pytest.mark.parametrize(("handle", "limit"), [(closes, 11), (waits, 13)])
def test_a_short_connection_takes_few_system_calls(
    server: MakeServer, tmp_path: Path, handle: Handler, limit: int
) -> None:
    plane = PlaneProcess(server(handle).port)
    with contextlib.closing(plane):
        ask_often(plane, handle)  # the first ones teach it that clients wait for their answers
        with traced(plane, tmp_path / "trace") as calls:
            ask_often(plane, handle)
    counted = list(connections(calls))
    assert len(counted) >= CONNECTIONS - 4
    print(Counter(tuple(sorted(each.items())) for each in counted).most_common(1))
    # The median: a tracer that stops a worker for long makes its answers late, and those connections dearer.
    assert statistics.median(each.total() for each in counted) <= limit
    assert sum(each["accept4"] for each in counted) <= CONNECTIONS * 1.1, (
        "none finds that nobody else is there"
    )
    assert not any(each["clock_gettime"] for each in counted)


def ask_often(plane: PlaneProcess, handle: Handler) -> None:
    for _ in range(CONNECTIONS):
        with socket.create_connection(("127.0.0.1", plane.port), 30) as client:
            client.sendall(bytes(64))
            assert len(exactly(client, 100)) == 100
            if handle is closes:
                assert client.recv(1) == b""
    eventually(lambda: plane.look()["open"] == 0, timeout=30, what="the connections to end")


@contextlib.contextmanager
def quiet_echo() -> Iterator[int]:
    """A server for thousands of idle connections, in one thread; its port."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=4096) as listener,
        selectors.DefaultSelector() as ready,
    ):
        ready.register(listener, selectors.EVENT_READ)
        stop = threading.Event()
        thread = threading.Thread(target=serve_quietly, args=(listener, ready, stop))
        thread.start()
        yield listener.getsockname()[1]
        stop.set()
        thread.join()


def serve_quietly(listener: socket.socket, ready: selectors.BaseSelector, stop: threading.Event) -> None:
    while not stop.is_set():
        for key, _ in ready.select(0.1):
            if key.fileobj is listener:
                ready.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if not echoed(connection):
                ready.unregister(connection)
                connection.close()
    for key in list(ready.get_map().values()):
        if isinstance(key.fileobj, socket.socket) and key.fileobj is not listener:
            key.fileobj.close()


def echoed(connection: socket.socket) -> bool:
    """Whether there was something to echo, and not the end."""
    try:
        data = connection.recv(1024)
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return bool(data)


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


def exchange(port: int) -> socket.socket:
    """A connection that has said something and was answered."""
    client = socket.create_connection(("127.0.0.1", port), 30)
    client.sendall(b"x" * 64)
    assert len(exactly(client, 64)) == 64
    return client
