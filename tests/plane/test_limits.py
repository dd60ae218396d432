"""At the limit of descriptors it waits, loses nobody whom it serves, and goes on when there is room again."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Iterator

import pytest
from cpu_time import used_by
from mesh import exactly
from plane_process import PlaneProcess, exchange, quiet_echo, raise_limit
from waiting import eventually

MANY = 9000
FEW = 300  # descriptors


@contextlib.contextmanager
def serving(descriptors: int = 0) -> Iterator[PlaneProcess]:
    with quiet_echo() as port, contextlib.closing(PlaneProcess(port, descriptors=descriptors)) as plane:
        yield plane


def speaks(client: socket.socket) -> bool:
    client.sendall(b"still")
    return exactly(client, 5) == b"still"


@pytest.mark.slow
def test_nine_thousand_connections_at_once() -> None:
    raise_limit()
    with serving() as plane, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(exchange(plane.port, f"127.0.1.{i % 4}")) for i in range(MANY)]
        assert plane.look()["open"] == MANY
        assert all(speaks(client) for client in clients[::100])


def test_at_the_limit_clients_wait_and_are_served_later() -> None:
    with serving(FEW) as plane, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", plane.port), 30)) for _ in range(FEW)
        ]
        for client in clients:
            client.sendall(b"first")
        eventually(lambda: waits(plane), timeout=30, what="it to take no more")
        served = plane.look()["open"]
        assert 20 <= served < FEW // 2
        before, began = used_by(plane.pid), time.monotonic()
        for _ in range(20):
            time.sleep(0.05)
            assert plane.look()["open"] == served
        busy = (used_by(plane.pid) - before) / (time.monotonic() - began)
        assert busy < 0.3, "it does not spin"
        assert answered(clients) == FEW
        eventually(lambda: plane.look()["open"] == 0, timeout=30, what="all to end")


def answered(clients: list[socket.socket]) -> int:
    """How many get their answer when each that has it makes room for one that waits."""
    count = 0
    with selectors.DefaultSelector() as ready:
        for client in clients:
            ready.register(client, selectors.EVENT_READ)
        while ready.get_map() and (events := ready.select(30)):
            for key, _ in events:
                assert isinstance(key.fileobj, socket.socket)
                count += exactly(key.fileobj, 5) == b"first"
                ready.unregister(key.fileobj)
                key.fileobj.close()
    return count


def waits(plane: PlaneProcess) -> bool:
    """Whether the number of its connections has come to rest."""
    before = plane.look()["open"]
    time.sleep(0.3)
    return bool(before and plane.look()["open"] == before)
