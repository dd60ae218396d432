"""Asks hosts for a sign of life: ICMP echoes, which a host's kernel answers whatever runs on it.

An agent that has ended, hangs or is being replaced is not missed here, and nobody's Python has to answer. All
hosts are asked at once and the answers collected later, so that 50 of them cost two wake-ups.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import struct
from collections.abc import Iterable

log = logging.getLogger(__name__)

ANSWERS = 4_096  # taken at a time: a flood of them must not keep this node busy
BUFFER = 1 << 20  # bytes; each answer of a round takes some 800 of the kernel's

_REQUEST, _REPLY = 8, 0
_SOL_RAW, _ICMP_FILTER = 255, 1  # linux/icmp.h; Python has no names for them
_HEAD = struct.Struct("!BBHHH")


class Echo:
    """Asks hosts by their IPv4 addresses. Without the right to (CAP_NET_RAW) nobody ever answers."""

    def __init__(self) -> None:
        # The token keeps others from answering for a host without having seen what it was asked.
        body = struct.pack("!HH", os.getpid() & 0xFFFF, 1) + secrets.token_bytes(16)
        self._request = _packet(body)
        self._body = body
        self._socket: socket.socket | None = None
        self._opened = False

    @property
    def works(self) -> bool:
        """Whether this process may ask at all; known once it has tried."""
        return self._socket is not None

    def ask(self, addresses: Iterable[str]) -> None:
        """Send one echo to each; the answers are there later, or never."""
        if not self._opened:
            self._opened, self._socket = True, _open()
        if self._socket is None:
            return
        for address in addresses:
            with contextlib.suppress(OSError):  # no route, no room: no answer
                self._socket.sendto(self._request, (address, 0))

    def answers(self) -> set[str]:
        """The hosts that have answered since the last look."""
        found: set[str] = set()
        if self._socket is None:
            return found
        with contextlib.suppress(OSError):  # nothing more to read
            for _ in range(ANSWERS):
                data, (address, _) = self._socket.recvfrom(128)
                if self._is_answer(data):
                    found.add(address)
        return found

    def close(self) -> None:
        """Ask no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _is_answer(self, data: bytes) -> bool:
        start = (data[0] & 15) * 4 if data else 0  # a raw socket gets the IP header, too
        return data[start : start + 1] == bytes([_REPLY]) and data[start + 4 :] == self._body


def is_askable(address: str) -> bool:
    """Whether an address is one of IPv4."""
    try:
        return ipaddress.ip_address(address).version == 4
    except ValueError:
        return False


def _open() -> socket.socket | None:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        found = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
    except OSError as error:
        log.warning("may not send ICMP echoes (%s): nodes that fall silent are noticed later", error.strerror)
        return None
    found.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _REPLY) & 0xFFFFFFFF))
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return found


def _packet(body: bytes) -> bytes:
    rest = body[4:]
    identifier, number = struct.unpack("!HH", body[:4])
    checksum = _checksum(_HEAD.pack(_REQUEST, 0, 0, identifier, number) + rest)
    return _HEAD.pack(_REQUEST, 0, checksum, identifier, number) + rest


def _checksum(data: bytes) -> int:
    """RFC 1071. `data` has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
