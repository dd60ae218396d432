"""The load on an emulated proxy: clients and a backend on loopback, which run on the machine itself."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

REQUEST, ANSWER, BULK = 64, 100, 1 << 20
PATIENCE = 60.0
Load = Callable[[int, int], None]  # the proxy's port, and how often


def exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or what came before the end."""
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def _serve(connection: socket.socket) -> None:
    """By the first byte of each request: c to be answered and closed, b for a MiB, w for an answer."""
    with connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while request := exactly(connection, REQUEST):
            connection.sendall(bytes(BULK if request[:1] == b"b" else ANSWER))
            if request[:1] == b"c":
                return


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed: it is over
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection,)).start()


@contextlib.contextmanager
def backend() -> Iterator[int]:
    """A server on loopback; its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        thread = threading.Thread(target=_accept, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _ask(client: socket.socket, kind: bytes, size: int = ANSWER) -> None:
    client.sendall(kind * REQUEST)
    assert len(exactly(client, size)) == size, "the answer is not whole"


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def server_closes(port: int, times: int) -> None:
    for _ in range(times):
        with _connect(port) as client:
            _ask(client, b"c")
            assert client.recv(1) == b"", "more than the answer"


def client_closes(port: int, times: int) -> None:
    for _ in range(times):
        with _connect(port) as client:
            _ask(client, b"w")


def requests(port: int, times: int) -> None:
    with _connect(port) as client:
        for _ in range(times):
            _ask(client, b"w")


def bulk(port: int, times: int) -> None:
    with _connect(port) as client:
        for _ in range(times):
            _ask(client, b"b", BULK)


LOADS: dict[str, Load] = {
    "connection, the server closes": server_closes,
    "connection, the client closes": client_closes,
    "request of an open connection": requests,
    "MiB of an open connection": bulk,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_answer(port: int, alive: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Returns when the port answers; an AssertionError says that it does not."""
    end = time.monotonic() + seconds
    while True:
        try:
            return server_closes(port, 1)
        except (OSError, AssertionError):
            assert alive(), "the proxy has ended"
            assert time.monotonic() < end, "the proxy does not answer"
            time.sleep(0.2)
