"""Signs of life over real sockets on loopback: echoes, dials, and what the kernel knows of a connection."""

from __future__ import annotations

import contextlib
import errno
import socket
import time

import pytest
from waiting import eventually

from meshlb.peers.dial import Dials
from meshlb.peers.echo import Echo
from meshlb.peers.wire import Wire

HERE = "127.0.0.1"


@pytest.fixture
def echo() -> Echo:
    found = Echo()
    found.ask(())
    if not found.works:
        pytest.skip("may not send echoes; needs CAP_NET_RAW")
    return found


def test_hosts_that_are_there_answer(echo: Echo) -> None:
    with contextlib.closing(echo):
        seen: set[str] = set()
        echo.ask(("127.0.0.1", "127.0.0.2", "nonsense"))

        def look() -> bool:
            seen.update(echo.answers())
            return len(seen) == 2

        eventually(look, timeout=10, what="two answers")
        assert seen == {"127.0.0.1", "127.0.0.2"}
        assert echo.answers() == set()


def test_answers_to_others_are_not_ours(echo: Echo) -> None:
    other = Echo()
    with contextlib.closing(echo), contextlib.closing(other):
        other.ask((HERE,))
        eventually(other.answers, timeout=10, what="its own answer")
        assert echo.answers() == set()


def test_without_the_right_to_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refuse)
    echo = Echo()
    echo.ask((HERE,))
    assert not echo.works
    assert echo.answers() == set()
    echo.close()


def results(dials: Dials, now: float = 0.0) -> dict[str, bool]:
    found: dict[str, bool] = {}

    def look() -> bool:
        found.update(dials.results(now))
        return bool(found)

    eventually(look, timeout=10, what="a result")
    return found


def test_connected_and_refused_are_answers() -> None:
    with socket.create_server((HERE, 0)) as listener:
        port = listener.getsockname()[1]
        for address, said in ((HERE, True), ("127.0.0.2", True)):
            dials = Dials(port, 100.0)
            dials.start(address, 0.0)
            assert results(dials) == {address: said}
            assert dials.results(1e9) == {}


def test_no_answer_in_time_is_silence() -> None:
    """A listener whose queue is full does not answer at all."""
    with socket.create_server((HERE, 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((HERE, port))
        dials = Dials(port, 0.25)
        dials.start(HERE, 10.0)
        dials.start(HERE, 10.2)
        assert dials.results(10.2) == {}
        assert dials.results(10.3) == {HERE: False}
        dials.start(HERE, 11.0)
        dials.close()
        assert dials.results(12.0) == {}


def test_an_answer_that_came_while_the_process_was_held_up_counts() -> None:
    with socket.create_server((HERE, 0)) as listener:
        dials = Dials(listener.getsockname()[1], 0.25)
        dials.start(HERE, 0.0)
        listener.accept()[0].close()
        assert dials.results(1000.0) == {HERE: True}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errno.EHOSTUNREACH, {HERE: False}),
        (errno.ENETUNREACH, {HERE: False}),
        (errno.ECONNREFUSED, {HERE: True}),
        (errno.EPERM, {}),  # this machine's own firewall says nothing about the other
    ],
)
def test_what_stands_for_silence(monkeypatch: pytest.MonkeyPatch, error: int, said: dict[str, bool]) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: error)
    dials = Dials(1, 0.25)
    dials.start(HERE, 0.0)
    assert dials.results(0.0) == said


def test_what_cannot_be_dialled_gives_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    dials = Dials(1, 0.25)
    dials.start("nonsense", 0.0)

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(socket, "socket", refuse)
    dials.start(HERE, 0.0)
    assert dials.results(1e9) == {}


def test_the_kernel_tells_how_old_a_connection_is() -> None:
    with socket.create_server((HERE, 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        two, _ = listener.accept()
        wire = Wire(one.fileno())
        with two:
            time.sleep(0.3)
            before = wire.age()
            assert before is not None
            assert before >= 0.3
            two.send(b"x")
            eventually(lambda: (wire.age() or 0) < before, timeout=10, what="a sign of life")
            time.sleep(1.2)  # the kernel has asked meanwhile, and was answered
            age = wire.age()
            assert age is not None
            assert age < 1.1
            wire.cut()
            assert two.recv(1) == b""
