"""What the plane does after a while, with a clock that runs thirty times as fast as the true one."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mesh import MakeServer, echo
from plane_process import PlaneProcess, exchange
from sockets import facing
from waiting import eventually

SOURCE = Path(__file__).parents[1] / "support" / "hurry.c"
PACE = 30
ETH_P_IP = 0x0800
Hurried = Callable[..., PlaneProcess]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("hurry") / "hurry.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", target, SOURCE, "-ldl"], check=True)
    return target


@pytest.fixture
def hurried(library: Path) -> Iterator[Hurried]:
    """Makes planes in a hurry: of the backends' port and the policy's settings."""
    with contextlib.ExitStack() as stack:

        def make(backend_port: int, **settings: str) -> PlaneProcess:
            environment = {"LD_PRELOAD": str(library), "HURRY": str(PACE)}
            named = {key.replace("_", "-"): value for key, value in settings.items()}
            plane = PlaneProcess(backend_port, settings=named, environment=environment)
            stack.callback(plane.close)
            return plane

        yield make


def keepalive(end: socket.socket) -> list[int]:
    """Whether it is on, the seconds before it begins and between two probes, and how many of them."""
    return [
        end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        *(
            end.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ),
    ]


def test_whoever_vanishes_is_found_by_keepalive(hurried: Hurried, server: MakeServer) -> None:
    """The client from the start, the backend once the connection has lived for a minute."""
    one = server(echo)
    plane = hurried(one.port)
    with (
        exchange(plane.port) as client,
        facing(client.getsockname()[1], plane.pid) as to_client,
        facing(one.port, plane.pid) as to_backend,
    ):
        assert keepalive(to_client) == [1, 60, 10, 6]
        eventually(lambda: keepalive(to_backend) == [1, 60, 10, 6], timeout=30, what="it to be a minute old")


def say_and_hear(client: socket.socket, said: bytes) -> bytes:
    client.send(said)
    return client.recv(1)


@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 192.0.2.1 "])
def test_who_must_send_a_header_keeps_no_place_without(
    hurried: Hurried, server: MakeServer, said: bytes
) -> None:
    plane = hurried(server(echo).port, accept_proxy="127.0.0.0/8")
    with (
        socket.create_connection(("127.0.0.1", plane.port), 30) as client,
        pytest.raises(ConnectionResetError),  # on a busy machine even before it has said all
    ):
        say_and_hear(client, said)
    assert plane.look()["tcp"]["refused"]["header"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="looks at packets: needs root")
def test_looks_may_be_further_apart_than_the_wheel_of_timers_is_long(
    hurried: Hurried, server: MakeServer
) -> None:
    one = server(echo)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP)) as tap:
        tap.bind(("lo", ETH_P_IP))
        tap.settimeout(60)
        hurried(one.port, check="tcp", check_interval="400s")
        first, second = look(tap, one.port), look(tap, one.port)
    assert (second - first) * PACE > 350


def look(tap: socket.socket, port: int) -> float:
    """When the next SYN to the port comes by."""
    while True:
        packet = tap.recv(128)
        header = (packet[0] & 15) * 4
        to, flags = int.from_bytes(packet[header + 2 : header + 4]), packet[header + 13 : header + 14]
        if packet[9] == socket.IPPROTO_TCP and to == port and flags == b"\x02":
            return time.monotonic()
