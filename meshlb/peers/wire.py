"""The socket below a connection between agents: what its kernel knows of the other end, and how to end it.

The kernel asks once a second whether the other end is there, and its answers cost neither end any Python.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

ASK_EVERY = 1  # seconds, the least there is
GIVE_UP = 10_000  # milliseconds without an acknowledgement
_LAST_DATA, _LAST_ACK = 52, 56  # offsets in Linux's struct tcp_info: milliseconds since the last one came
_INFO_SIZE = 60


def watch_over(wire: Any) -> None:
    """Have the kernel ask the other end of a TCP socket for signs of life, and end a dead connection."""
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ASK_EVERY),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ASK_EVERY),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 10),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVE_UP),
    ):
        wire.setsockopt(level, option, value)


class Wire:
    """A second handle on a connection's socket, as those of event loops do not do everything."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)  # duplicates it
        try:
            watch_over(self._socket)
        except OSError:
            self._socket.close()
            raise

    def age(self) -> float | None:
        """Seconds since the other end's kernel last sent anything; None when that cannot be told."""
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
        except OSError:
            return None
        if len(info) < _INFO_SIZE:
            return None
        (data,), (ack,) = (
            struct.unpack_from("=I", info, _LAST_DATA),
            struct.unpack_from("=I", info, _LAST_ACK),
        )
        return float(min(data, ack)) / 1000

    def cut(self) -> None:
        """End the connection at once: neither a flood nor silence can hold up its closing."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
