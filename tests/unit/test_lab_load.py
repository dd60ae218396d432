"""The load generator must see every failure that there is: it is what the lab's tests judge by."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from load import EchoHold, Load, Report
from waiting import eventually

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nname\n"


@contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on loopback that gives each connection to `handle` in turn."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        thread = threading.Thread(target=_serve, args=(listener, handle))
        thread.start()
        host, port = listener.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            handle(connection)


def _saying(answer: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)

    return handle


def _reset(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def loaded(address: str, **options: float) -> Report:
    """The report of a short load."""
    with Load([address], concurrency=2, seconds=0.5, **options) as load:  # type: ignore[arg-type]
        return load.stop()


def test_answers_are_counted_by_their_first_line() -> None:
    with serving(_saying(ANSWER)) as address, Load([address], concurrency=2) as load:
        report = load.stop()
    assert report.failed == 0
    assert report.answers == {address: {"name": report.succeeded}}
    assert report.succeeded >= 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "short answer"),
        (b"HTTP/1.1 200 OK\r\n", "short answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nname\n", "short answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "short answer"),
        (b"HTTP/1.1 500 No\r\n\r\nname\n", "wrong answer"),
    ],
)
def test_an_answer_that_is_not_whole_is_a_failure(answer: bytes, reason: str) -> None:
    with serving(_saying(answer)) as address:
        report = loaded(address)
    assert report.succeeded == 0
    assert set(report.reasons()) == {reason}
    first = report.failures[0]
    assert first.address == address
    assert first.wall > 1e9


def test_a_reset_is_a_failure() -> None:
    with serving(_reset) as address:
        assert set(loaded(address).reasons()) == {"reset"}


def test_a_closed_port_and_a_silent_server_are_failures() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        silent = loaded(f"{host}:{port}", timeout=0.1)
    assert set(silent.reasons()) == {"timeout"}
    assert set(loaded(f"{host}:{port}").reasons()) == {"refused"}


def test_long_connections_are_open_until_they_are_not() -> None:
    going = threading.Event()

    def echo(connection: socket.socket) -> None:
        connection.settimeout(0.01)
        while not going.is_set():
            try:
                data = connection.recv(4096)
            except TimeoutError:
                continue
            if not data:
                return
            connection.sendall(data)

    with serving(echo) as address:
        with EchoHold(address, count=1, pause=0.01) as hold:
            report = hold.stop()
        assert (report.failed, report.open_at_end) == (0, 1)
        with EchoHold(address, count=1, pause=0.01) as hold:
            going.set()
            child = hold._process
            assert child
            eventually(lambda: child.poll() is not None, timeout=10, what="the load to end by itself")
            report = hold.stop()
        assert report.open_at_end == 0
        assert set(report.reasons()) <= {"closed", "reset"}
        assert report.failed == 1


def test_a_generator_that_is_not_stopped_ends_with_its_block() -> None:
    with serving(_saying(ANSWER)) as address, Load([address]) as load:
        child = load._process
    assert child
    assert child.returncode is not None


def test_a_steady_load_does_not_wait_for_those_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        address = f"{host}:{port}"
        with Load([address], rate=100, concurrency=20, timeout=0.3, steady=True, seconds=2) as load:
            child = load._process
            assert child
            eventually(lambda: child.poll() is not None, timeout=10, what="the load to end by itself")
            report = load.stop()
    assert set(report.reasons()) == {"timeout", "too many are open"}
    assert report.reasons()["timeout"] >= 20
    assert report.failed_at == {address: report.failed}


def test_what_is_slow_is_written_down() -> None:
    report = Report()
    for seconds in [0.002] * 98 + [0.2, 0.4]:
        report.took("here", seconds)
    assert [(slow.seconds, slow.address) for slow in report.slow] == [(0.2, "here"), (0.4, "here")]
    assert report.slow_at == {"here": 2}
    assert report.slowest == 0.4
    for percent, seconds in ((50, 0.002), (99, 0.2), (100, 0.4)):
        assert seconds <= report.percentile(percent) <= seconds * 1.26
    assert Report().percentile(50) == 0.0


def test_records_are_bounded_for_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("load.MOST_RECORDS", 2)
    report = Report()
    for address in ("here", "there"):
        for _ in range(3):
            report.fail(address, "reset", 0.0)
            report.took(address, 1.0)
    assert len(report.failures) == len(report.slow) == 4
    assert report.failed_at == report.slow_at == {"here": 3, "there": 3}


def test_a_long_connection_tells_whose_it_was_and_another_one_follows() -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"task\n")
        connection.sendall(connection.recv(4096))  # one line, then the end

    def hang_up(connection: socket.socket) -> None:
        connection.sendall(b"task\n")

    with serving(greet) as address, EchoHold(address, count=1, pause=0.01, greeted=True, reopen=True) as hold:
        report = hold.stop()
    assert {failure.task for failure in report.failures} == {"task"}
    with (
        serving(hang_up) as address,
        EchoHold(address, count=1, pause=0.01, greeted=True, reopen=True, seconds=0.5) as hold,
    ):
        report = hold.stop()
    assert {failure.task for failure in report.failures} == {""}, "it was never established"
    assert report.opened[address] == report.failed > 1
