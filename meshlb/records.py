"""Connections that have ended, for the access log: the workers' records (`_record.pxd`), with names."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from meshlb.model import Port
from meshlb.table import Backend

_RECORD = struct.Struct("=16s4Q4I2HB3x")
_NEVER = 0xFFFFFFFF
_MAPPED = bytes(10) + b"\xff\xff"  # what IPv4 addresses begin with
REASONS = (  # by number: Refused's members, then OVER_*
    "no_backend",
    "full",
    "rate",
    "denied",
    "header",
    "resources",
    "done",
    "client-reset",
    "backend-reset",
    "idle",
    "drained",
    "backend-gone",
    "evicted",
    "stopped",
)


@dataclass(frozen=True, slots=True)
class Ended:
    """One connection, or conversation of UDP. Times are seconds; None is for what has not happened."""

    at: float  # seconds since 1970
    client: str
    port: Port
    service: str
    backend: Backend | None
    received: int  # bytes from the client
    sent: int
    connect: float | None  # from the beginning until a backend was there
    first_byte: float | None
    duration: float
    attempts: int
    reason: str


@dataclass(slots=True)
class Subjects:
    """What records are about, by the numbers that the workers know it by, for as long as they may."""

    ports: dict[int, tuple[Port, str]] = field(default_factory=dict)  # with their services
    backends: dict[int, Backend] = field(default_factory=dict)

    def forget(self, ports: Iterable[int], backends: Iterable[int]) -> None:
        """No more records come about these."""
        for port in ports:
            self.ports.pop(port, None)
        for backend in backends:
            self.backends.pop(backend, None)

    def ended(self, rows: bytearray, monotonic: float, now: float) -> Iterator[Ended]:
        """The records, given the workers' clock and the time of day at one moment."""
        for row in _RECORD.iter_unpack(rows):
            (
                address,
                at,
                duration,
                received,
                sent,
                connect,
                first_byte,
                port,
                backend,
                number,
                attempts,
                why,
            ) = row
            if port not in self.ports:
                continue
            yield Ended(
                now - (monotonic - at / 1e6),
                _client(address, number),
                *self.ports[port],
                self.backends.get(backend),
                received,
                sent,
                _seconds(connect),
                _seconds(first_byte),
                duration / 1e6,
                attempts,
                REASONS[why],
            )


def _client(address: bytes, port: int) -> str:
    """`192.0.2.7:51234`, `[2001:db8::7]:51234`; empty where it had gone before it was looked at."""
    if address.startswith(_MAPPED):
        return f"{address[12]}.{address[13]}.{address[14]}.{address[15]}:{port}"
    return f"[{ipaddress.IPv6Address(address)}]:{port}" if any(address) else ""


def _seconds(microseconds: int) -> float | None:
    return None if microseconds == _NEVER else microseconds / 1e6
