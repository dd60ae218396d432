"""A real plane on loopback with one published port, and backends to serve."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import ports
from waiting import eventually

from meshlb.model import BackendCounts, BackendState, Counters, Port, PortCounts, PortStatus
from meshlb.plane import Plane
from meshlb.policy import Policy
from meshlb.ports.listen import Listeners
from meshlb.ports.takeover import Takeover
from meshlb.table import Backend, Entry, Table

Handler = Callable[[socket.socket], None]
MakeServer = Callable[..., "Server"]
WORKERS = 2
MIB = 1 << 20
PATIENCE = 30.0  # seconds that handlers get to end


class Server:
    """A backend: `handle` runs in a thread of its own for every connection."""

    def __init__(self, handle: Handler, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.listener.listen(1024)
        self.address, self.port = self.listener.getsockname()[:2]
        self.handle = handle
        self.accepted = 0
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError as error:
                if error.errno != errno.EMFILE:
                    return
                time.sleep(0.01)  # a test has taken this process' descriptors, the plane's and ours
                continue
            self.accepted += 1
            thread = threading.Thread(target=self._run, args=(connection,))
            thread.start()
            self._threads.append(thread)

    def _run(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.handle(connection)
            except (OSError, AssertionError) as error:
                self.errors.append(error)

    def close(self) -> None:
        """Refuses connections from now on, and waits for the handlers."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._acceptor.join()
        end = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    @property
    def backend(self) -> Backend:
        return backend(self.port, self.address)


def backend(port: int, address: str = "127.0.0.1", state: BackendState = BackendState.UP) -> Backend:
    return Backend(address, port, f"task-{port}", f"web.{port}", "", state)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or what came before the end: on a socket with a timeout MSG_WAITALL does not wait."""
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


@contextlib.contextmanager
def full_listener(fillers: int = 4) -> Iterator[socket.socket]:
    """Swallows SYNs: its queue is full until somebody accepts."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(fillers):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener


@contextlib.contextmanager
def blackhole() -> Iterator[int]:
    """A port that swallows SYNs."""
    with full_listener() as listener:
        yield listener.getsockname()[1]


def reset(connection: socket.socket) -> None:
    """Closes with an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def free_port() -> int:
    return ports.free()


class Mesh:
    """One published port of a real plane, and whatever else `apply` is given."""

    def __init__(self, workers: int = WORKERS) -> None:
        self.takeover = Takeover("never")
        self.plane = Plane(workers, listeners=Listeners(self.takeover))
        self.plane.start()
        self.port = Port(free_port(), 80)

    def entry(self, *backends: Backend, port: Port | None = None, policy: Policy | None = None) -> Entry:
        return Entry(port or self.port, "web", policy or Policy(), backends)

    def serve(self, *backends: Backend, policy: Policy | None = None) -> tuple[PortStatus, ...]:
        return self.plane.apply(Table((self.entry(*backends, policy=policy),)))

    def connect(self, timeout: float = 30, address: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection((address, self.port.published), timeout)

    def port_counts(self, port: Port | None = None) -> PortCounts:
        return dict(self.plane.statistics().of_ports())[port or self.port]

    def backend_counts(self, port: Port | None = None) -> dict[Backend, BackendCounts]:
        wanted = port or self.port
        return {
            backend: counts for of, backend, counts in self.plane.statistics().of_backends() if of == wanted
        }

    def counters(self) -> Counters:
        return self.plane.counters()

    def close(self) -> None:
        """Everything that was accepted is closed, and every backend and port can be freed."""
        try:
            self._empty()
        finally:
            self.plane.stop()  # a failed test leaves no thread that keeps the whole run from ending
            self.takeover.close()
        made, closed = self.plane._forwarder.pipes()
        assert made == closed

    def _empty(self) -> None:
        self.plane.close_listeners()
        eventually(lambda: self.counters().open == 0, timeout=30, what="every connection to be closed")
        self.plane.apply(Table())
        eventually(self._reaped, timeout=10, what="every port and backend to be freed")

    def _reaped(self) -> bool:
        self.plane.recheck()
        return self.plane._forwarder.held() == (0, 0)
