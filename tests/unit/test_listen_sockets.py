"""Listening sockets on loopback: shared among our workers, and with nobody else."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

import pytest

from meshlb.model import Port, Protocol
from meshlb.ports import listen
from meshlb.ports.listen import Listeners, Sockets, explained, listening_sockets
from meshlb.ports.takeover import Takeover


@contextlib.contextmanager
def opened(number: int = 0, count: int = 1) -> Iterator[Sockets]:
    sockets = listening_sockets(number, count)
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def number_of(sockets: Sockets) -> int:
    return int(sockets[0].getsockname()[1])


def accepted(sockets: Sockets) -> list[socket.socket]:
    """What waits in the queues; a completed handshake is there already."""
    found = []
    for each in sockets:
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(each.accept()[0])
    return found


def test_all_sockets_share_the_port_and_the_connections() -> None:
    with opened(count=2) as sockets, contextlib.ExitStack() as stack:
        assert {each.getsockname()[1] for each in sockets} == {number_of(sockets)}
        for _ in range(64):
            stack.enter_context(socket.create_connection(("127.0.0.1", number_of(sockets))))
        shares = [[stack.enter_context(each) for each in accepted((one,))] for one in sockets]
        assert sum(map(len, shares)) == 64
        assert all(shares)  # the odds of an idle one are 1 to 2 ** 63


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_both_families_come_to_one_socket(address: str) -> None:
    with opened() as sockets, socket.create_connection((address, number_of(sockets))):
        (connection,) = accepted(sockets)
        connection.close()


def test_without_ipv6_in_the_kernel_ipv4_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr("meshlb.ports.listen.socket.socket", without_ipv6)
    with opened(count=2) as sockets:
        assert [each.family for each in sockets] == [socket.AF_INET, socket.AF_INET]


def test_accepted_sockets_inherit_what_connections_need() -> None:
    with opened() as sockets, socket.create_connection(("127.0.0.1", number_of(sockets))):
        (connection,) = accepted(sockets)
        with connection:
            inherited = [connection.getsockopt(level, option) for level, option, _ in listen.OPTIONS]
            assert inherited == [1, 1, 1, 1, 60, 10, 6]


def test_listeners_neither_block_nor_leak_into_children() -> None:
    with opened(count=2) as sockets:
        assert [(each.gettimeout(), each.get_inheritable()) for each in sockets] == [(0.0, False)] * 2


def test_a_port_that_is_shared_by_reuseport_is_in_use_all_the_same() -> None:
    with opened() as sockets, pytest.raises(OSError, match="in use"):
        listening_sockets(number_of(sockets), 1)


def test_connections_in_time_wait_are_no_obstacle() -> None:
    with opened() as sockets:
        number = number_of(sockets)
        with socket.create_connection(("127.0.0.1", number)) as client:
            (connection,) = accepted(sockets)
            connection.close()  # whoever closes first waits
            assert client.recv(1) == b""
    with opened(number):
        pass


def test_all_sockets_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    real = listen._bound

    def third_fails(number: int, protocol: Protocol, address: str, first: bool) -> socket.socket:
        if len(made) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(real(number, protocol, address, first))
        return made[-1]

    monkeypatch.setattr(listen, "_bound", third_fails)
    with pytest.raises(OSError, match="Too many open files"):
        listening_sockets(0, 3)
    assert [each.fileno() for each in made] == [-1, -1]


def test_a_udp_port_is_shared_by_its_sockets_alone() -> None:
    first, *others = listening_sockets(0, 3, Protocol.UDP)
    number = first.getsockname()[1]
    with contextlib.ExitStack() as stack:
        for each in (first, *others):
            stack.enter_context(each)
        assert {each.getsockname()[1] for each in others} == {number}
        with pytest.raises(OSError, match="in use"):
            listening_sockets(number, 1, Protocol.UDP)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "CAP_NET_BIND_SERVICE"),
        (errno.EACCES, "sysctl net.ipv4.ip_unprivileged_port_start=80"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOBUFS, "No buffer space available"),
    ],
)
def test_what_the_kernel_refuses_is_a_sentence(number: int, advice: str) -> None:
    sentence = explained(OSError(number, "?"), Port(80, 8000))
    assert sentence.startswith("port 80/tcp ")
    assert advice in sentence


@pytest.mark.usefixtures("given_back")
def test_a_free_port_is_bound_as_it_is() -> None:
    with opened() as sockets:
        number = number_of(sockets)
    listeners = Listeners(Takeover("never"))
    opening = listeners.open(Port(number, 8000), 2)
    assert [each.getsockname()[1] for each in opening.sockets] == [number, number]
    assert (opening.state, opening.reason) == ("serving", "")
    for each in opening.sockets:
        each.close()
