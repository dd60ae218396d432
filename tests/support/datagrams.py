"""Servers and clients of UDP for a real plane."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable

from mesh import backend

from meshlb.table import Backend

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
Answer = Callable[[bytes], Iterable[bytes]]


class UdpServer:
    """A backend on loopback that answers each datagram with what `answer` says, an echo by itself."""

    def __init__(
        self, answer: Answer = lambda data: (data,), address: str = "127.0.0.1", port: int = 0
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind((address, port))
        self.address, self.port = self.socket.getsockname()[:2]
        self.answer = answer
        self.received: list[tuple[bytes, int]] = []  # with the port that it came from
        self._closing = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, sender = self.socket.recvfrom(65536)
            if self._closing:
                return
            self.received.append((data, sender[1]))
            with contextlib.suppress(OSError):
                for answer in self.answer(data):
                    self.socket.sendto(answer, sender)

    def close(self) -> None:
        """From here on the kernel says that nobody listens."""
        if self._thread.is_alive():
            self._closing = True
            with socket.socket(self.socket.family, socket.SOCK_DGRAM) as waker:
                waker.sendto(b"", (self.address, self.port))
            self._thread.join(10)
        self.socket.close()

    @property
    def backend(self) -> Backend:
        return backend(self.port, self.address)


def client(port: int, address: str = "127.0.0.1", timeout: float = 10) -> socket.socket:
    """A connected socket: it takes only what comes from the address that it speaks to."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.connect((address, port))
    return sock


def ask(sock: socket.socket, data: bytes) -> bytes:
    sock.send(data)
    return sock.recv(65536)


def send_train(sock: socket.socket, datagrams: list[bytes]) -> None:
    """Several datagrams of one length (the last may be shorter) in one call and one message."""
    sock.sendmsg(datagrams, [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))])
