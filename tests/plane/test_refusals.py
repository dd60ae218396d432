"""The kernel refuses what the workers ask for: clients lose nothing that could be kept, and it is counted."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datagrams import UdpServer, ask, client, send_train
from mesh import MIB, MakeServer, echo, exactly
from plane_process import PlaneProcess, exchange
from waiting import eventually

SOURCE = Path(__file__).parents[1] / "support" / "faulty.c"
NAMES = (
    "accept4",
    "socket",
    "connect",
    "pipe2",
    "splice",
    "send",
    "recv",
    "epoll_ctl",
    "sendmmsg",
    "recvmmsg",
)
FAULT = struct.Struct("=3i")
OUT_OF = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")


class FaultyPlane(PlaneProcess):
    """A plane whose system calls can be made to fail."""

    def __init__(self, shared: Path, library: Path, *backend_ports: int) -> None:
        shared.write_bytes(bytes(FAULT.size * len(NAMES)))
        with shared.open("r+b") as file:
            self._faults = mmap.mmap(file.fileno(), 0)
        environment = {"LD_PRELOAD": str(library), "FAULTS": str(shared)}
        super().__init__(*backend_ports, environment=environment)

    def refuse(self, name: str, error: str, times: int) -> None:
        """The next so many of these calls fail."""
        at = NAMES.index(name) * FAULT.size
        self._faults[at : at + FAULT.size] = FAULT.pack(getattr(errno, error), times, 0)

    def refused(self, name: str) -> int:
        """How many have failed."""
        return int(FAULT.unpack_from(self._faults, NAMES.index(name) * FAULT.size)[2])

    def close(self) -> None:
        super().close()
        self._faults.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("faulty") / "faulty.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", target, SOURCE, "-ldl"], check=True)
    return target


@pytest.fixture
def plane(library: Path, tmp_path: Path, server: MakeServer) -> Iterator[FaultyPlane]:
    """Has two backends; afterwards it serves as before, and has given everything back."""
    with contextlib.closing(FaultyPlane(tmp_path / "faults", library, *_both(server))) as plane:
        exchange(plane.port).close()
        eventually(lambda: plane.look()["open"] == 0, timeout=10, what="the connection to end")
        before = plane.look()["descriptors"]
        yield plane
        for _ in range(20):
            exchange(plane.port).close()
        eventually(lambda: plane.look()["open"] == 0, timeout=30, what="all connections to end")
        assert plane.look()["descriptors"] <= before + 20  # a few pipes are kept


def _both(server: MakeServer) -> tuple[int, int]:
    return server(echo).port, server(echo).port


def counts(plane: PlaneProcess) -> Any:
    return plane.look()["tcp"]


@pytest.mark.parametrize("error", [*OUT_OF, "ECONNABORTED", "EPROTO", "EINTR", "EPERM"])
def test_a_client_that_cannot_be_accepted_now_is_accepted_later(plane: FaultyPlane, error: str) -> None:
    plane.refuse("accept4", error, 4)
    for _ in range(6):
        exchange(plane.port).close()
    assert plane.refused("accept4") == 4
    assert not any(counts(plane)["refused"].values())


@pytest.mark.parametrize("error", OUT_OF)
@pytest.mark.parametrize("name", ["socket", "connect"])
def test_an_attempt_waits_for_what_the_kernel_has_not(plane: FaultyPlane, name: str, error: str) -> None:
    plane.refuse(name, error, 3)
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(exchange(plane.port))
    assert plane.refused(name) == 3
    assert not any(counts(plane)["refused"].values())


@pytest.mark.parametrize("error", ["EADDRNOTAVAIL", "EPERM", "EAGAIN"])
def test_one_attempt_without_a_local_port_or_conntracks_room_costs_nothing(
    plane: FaultyPlane, error: str
) -> None:
    plane.refuse("connect", error, 1)
    exchange(plane.port).close()
    assert plane.refused("connect") == 1
    assert counts(plane)["failovers"] == 1


@pytest.mark.parametrize("error", ["EADDRNOTAVAIL", "EPERM", "EAGAIN"])
def test_when_there_is_none_at_all_clients_are_reset_and_counted(plane: FaultyPlane, error: str) -> None:
    plane.refuse("connect", error, 6)
    for _ in range(3):
        with (
            contextlib.suppress(ConnectionResetError),
            socket.create_connection(("127.0.0.1", plane.port)) as sock,
        ):
            sock.settimeout(10)
            assert sock.recv(1) == b"", "neither an answer nor a clean end"
            pytest.fail("a clean end")
    assert plane.refused("connect") == 6
    assert counts(plane)["refused"]["resources"] == 3
    exchange(plane.port).close()  # it was no backend's fault: none is set aside


@pytest.mark.parametrize(
    ("name", "error"), [("pipe2", "EMFILE"), ("pipe2", "ENFILE"), ("splice", "ENOMEM"), ("splice", "ENOBUFS")]
)
def test_a_stream_goes_on_without_pipes(plane: FaultyPlane, name: str, error: str) -> None:
    data = os.urandom(16 * MIB)
    with exchange(plane.port) as sock:
        sender = threading.Thread(target=sock.sendall, args=(data,))
        plane.refuse(name, error, 3)
        sender.start()
        assert exactly(sock, len(data)) == data
        sender.join()
    assert plane.refused(name) > 0


@pytest.mark.parametrize("error", ["ENOBUFS", "ENOMEM"])
@pytest.mark.parametrize("name", ["send", "recv"])
@pytest.mark.parametrize("when", ["first", "later"])
def test_bytes_wait_for_memory(plane: FaultyPlane, name: str, error: str, when: str) -> None:
    if when == "first":
        plane.refuse(name, error, 2)
    with exchange(plane.port) as sock:
        plane.refuse(name, error, 2)
        for number in range(50):
            said = b"%03d" % number * 400
            sock.sendall(said)
            assert exactly(sock, len(said)) == said
    assert plane.refused(name) == 2


@pytest.mark.parametrize("error", ["ENOMEM", "ENOSPC"])
def test_who_cannot_be_watched_is_reset(plane: FaultyPlane, error: str) -> None:
    plane.refuse("epoll_ctl", error, 3)
    lost = 0
    for _ in range(10):
        try:
            exchange(plane.port).close()
        except (AssertionError, ConnectionResetError):
            lost += 1
    assert plane.refused("epoll_ctl") == 3
    assert lost <= 3


def test_ports_whose_sockets_cannot_be_watched_yet_are_served_later(
    library: Path, tmp_path: Path, server: MakeServer
) -> None:
    udp_server = UdpServer()
    with contextlib.ExitStack() as stack:
        stack.callback(udp_server.close)
        ports = server(echo).port, udp_server.port  # one for each: the other's is refused
        plane = stack.enter_context(contextlib.closing(FaultyPlane(tmp_path / "faults", library, *ports)))
        plane.refuse("epoll_ctl", "ENOSPC", 4)  # of each worker one listener and one receiver
        tcp, udp = plane.publish()
        for _ in range(20):
            exchange(tcp).close()
            with client(udp) as sock:
                assert ask(sock, b"?") == b"?"
        assert plane.refused("epoll_ctl") == 4


@pytest.fixture
def servers() -> Iterator[list[UdpServer]]:
    servers = [UdpServer(), UdpServer()]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def udp_plane(library: Path, tmp_path: Path, servers: list[UdpServer]) -> Iterator[FaultyPlane]:
    ports = [server.port for server in servers]
    with contextlib.closing(FaultyPlane(tmp_path / "faults", library, *ports)) as plane:
        yield plane
        with client(plane.udp_port) as sock:
            assert ask(sock, b"afterwards") == b"afterwards"


def is_not_answered(sock: socket.socket, data: bytes) -> None:
    sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        ask(sock, data)
    sock.settimeout(10)


@pytest.mark.parametrize("error", OUT_OF)
def test_a_flow_without_a_socket_is_refused_and_counted(udp_plane: FaultyPlane, error: str) -> None:
    udp_plane.refuse("socket", error, 2)  # for both backends
    with client(udp_plane.udp_port) as sock:
        is_not_answered(sock, b"?")
        eventually(
            lambda: udp_plane.look()["udp"]["refused"]["resources"] == 1, timeout=10, what="it to be counted"
        )
        assert udp_plane.look()["udp"]["dropped"] == 1
        assert ask(sock, b"again") == b"again"


def test_without_local_ports_the_oldest_flow_makes_room(udp_plane: FaultyPlane) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(10):  # at both workers
            assert ask(stack.enter_context(client(udp_plane.udp_port)), b"%d" % number) == b"%d" % number
        udp_plane.refuse("connect", "EAGAIN", 1)
        assert ask(stack.enter_context(client(udp_plane.udp_port)), b"late") == b"late"
        assert udp_plane.look()["open"] == 10
    assert udp_plane.refused("connect") == 1
    assert udp_plane.look()["udp"]["failovers"] == 0


@pytest.mark.parametrize("error", ["EAGAIN", "EADDRNOTAVAIL"])
def test_a_flow_without_a_local_port_is_refused_and_counted(udp_plane: FaultyPlane, error: str) -> None:
    udp_plane.refuse("connect", error, 2)  # there is no other flow to make room
    with client(udp_plane.udp_port, timeout=0.3) as sock:
        with pytest.raises(TimeoutError):
            ask(sock, b"?")
        assert udp_plane.look()["udp"]["refused"]["resources"] == 1
        assert ask(sock, b"again") == b"again"


@pytest.mark.parametrize("error", ["ENOBUFS", "ENOMEM", "EPERM", "EAGAIN"])
def test_a_datagram_that_the_kernel_does_not_take_is_lost_and_counted(
    udp_plane: FaultyPlane, error: str
) -> None:
    with client(udp_plane.udp_port) as sock:
        assert ask(sock, b"1") == b"1"
        udp_plane.refuse("sendmmsg", error, 1)
        is_not_answered(sock, b"2")
        eventually(lambda: udp_plane.look()["udp"]["dropped"] == 1, timeout=10, what="it to be counted")
        assert ask(sock, b"3") == b"3"


@pytest.mark.parametrize("error", ["EIO", "EINVAL", "EMSGSIZE"])
def test_a_way_that_takes_no_joined_datagrams_gets_them_singly(udp_plane: FaultyPlane, error: str) -> None:
    train = [b"%02d" % number for number in range(20)]
    with client(udp_plane.udp_port) as sock:
        udp_plane.refuse("sendmmsg", error, 1)
        for _ in range(3):  # it is remembered
            send_train(sock, train)
            assert [sock.recv(100) for _ in train] == train
        assert udp_plane.refused("sendmmsg") == 1


@pytest.mark.parametrize("error", ["ENOBUFS", "ENOMEM", "EINTR", "EAGAIN"])
def test_what_cannot_be_received_now_is_received_later(udp_plane: FaultyPlane, error: str) -> None:
    with client(udp_plane.udp_port) as sock:
        ask(sock, b"0")
        udp_plane.refuse("recvmmsg", error, 1)
        assert ask(sock, b"1") == b"1"


def refuse_answer(plane: FaultyPlane, servers: list[UdpServer], error: str) -> None:
    """The next question's answer lies in the socket when the worker is told of the error."""

    def answer(data: bytes) -> tuple[bytes]:
        for server in servers:
            server.answer = lambda data: (data,)
        plane.refuse("recvmmsg", error, 1)
        return (data + b" from the first",)

    for server in servers:
        server.answer = answer


@pytest.mark.parametrize("error", ["EMSGSIZE", "ENOBUFS", "ENOMEM", "EPROTO"])
def test_an_error_that_does_not_say_that_the_backend_is_gone_moves_nobody(
    udp_plane: FaultyPlane, servers: list[UdpServer], error: str
) -> None:
    with client(udp_plane.udp_port) as sock:
        refuse_answer(udp_plane, servers, error)
        assert ask(sock, b"1") == b"1 from the first"
        assert ask(sock, b"2") == b"2"
    assert udp_plane.refused("recvmmsg") == 1
    assert sorted(len(server.received) for server in servers) == [0, 2]
    assert udp_plane.look()["udp"]["failovers"] == 0


@pytest.mark.parametrize("error", ["ECONNREFUSED", "ECONNABORTED"])
def test_what_a_backend_has_answered_before_it_went_is_not_lost(
    udp_plane: FaultyPlane, servers: list[UdpServer], error: str
) -> None:
    with client(udp_plane.udp_port) as sock:
        refuse_answer(udp_plane, servers, error)
        assert ask(sock, b"1") == b"1 from the first"
        assert sock.recv(100) == b"1", "it may be another question that was refused"
    assert udp_plane.look()["udp"]["failovers"] == 1


def test_what_a_router_has_said_of_an_earlier_datagram_costs_no_later_one(udp_plane: FaultyPlane) -> None:
    with client(udp_plane.udp_port) as sock:
        assert ask(sock, b"1") == b"1"
        udp_plane.refuse("sendmmsg", "EMSGSIZE", 1)
        assert ask(sock, b"2") == b"2"
    assert udp_plane.refused("sendmmsg") == 1
