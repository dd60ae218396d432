"""What the workers have counted: the rows of `_counts.pxd`, decoded when somebody looks at them.

A node with 200 ports of 50 backends has a million numbers. Reading them costs two milliseconds as long as no
Python object is made of each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from meshlb.model import BackendCounts, Counters, Histogram, Port, PortCounts, Protocol, Refused
from meshlb.table import Backend

_HISTOGRAM = "2Q24Q"
_PORT = struct.Struct("=14Q" + 3 * _HISTOGRAM)
_BACKEND = struct.Struct("=9Q2I" + 3 * _HISTOGRAM)
_TOTALS = struct.Struct("=14Q")
_PORT_BARE, _BACKEND_BARE = (struct.Struct(row + 3 * "2Q192x") for row in ("=14Q", "=9Q2I"))  # no buckets
PORT_NUMBERS, BACKEND_NUMBERS = 20, 17  # in a bare row
_WORKER = struct.Struct("=Q" + _HISTOGRAM)
PORT_ROW, BACKEND_ROW = _PORT.size, _BACKEND.size  # bytes
TIMES = struct.Struct("=" + 2 * _HISTOGRAM)  # of a row: the time to connect, and to the first byte
_BEFORE_TIMES = {PORT_ROW: struct.calcsize("=14Q"), BACKEND_ROW: struct.calcsize("=9Q2I")}

PortKey = tuple[int, Protocol]  # `Port.key`: one that leads to another target counts on
Key = PortKey | tuple[PortKey, str, str, int]  # of a backend: its port, task, address and port number


@dataclass(frozen=True, slots=True)
class Statistics:
    """All that was counted, at one time. `ports` and `backends` are in the order of their rows."""

    ports: tuple[Port, ...]
    port_rows: bytearray
    backends: tuple[tuple[Port, Backend], ...]
    backend_rows: bytearray
    worker_rows: bytearray = field(default_factory=bytearray)

    def of_ports(self) -> Iterator[tuple[Port, PortCounts]]:
        """Every port with what was counted of it."""
        rows = _PORT.iter_unpack(self.port_rows)
        return ((port, _port_counts(row)) for port, row in zip(self.ports, rows, strict=True))

    def of_backends(self) -> Iterator[tuple[Port, Backend, BackendCounts]]:
        """Every backend with its port and what was counted of it."""
        rows = _BACKEND.iter_unpack(self.backend_rows)
        return ((*of, _backend_counts(row)) for of, row in zip(self.backends, rows, strict=True))

    def of_ports_bare(self) -> Iterator[tuple[Port, tuple[int, ...]]]:
        """Every port with the bare numbers of its row, its histograms' totals and counts: the fast way."""
        return zip(self.ports, _PORT_BARE.iter_unpack(self.port_rows), strict=True)

    def of_backends_bare(self) -> Iterator[tuple[tuple[Port, Backend], tuple[int, ...]]]:
        """The same of every backend."""
        return zip(self.backends, _BACKEND_BARE.iter_unpack(self.backend_rows), strict=True)

    def of_workers(self) -> Iterator[tuple[int, Histogram]]:
        """The turns of every worker's loop, and how long some of them took."""
        return ((turns, _histogram(times)) for turns, *times in _WORKER.iter_unpack(self.worker_rows))

    def times(self) -> Iterator[tuple[Key, bytes]]:
        """The `TIMES` of every port and then of every backend, as they are: the fast way."""
        yield from zip((port.key for port in self.ports), _times(self.port_rows, PORT_ROW), strict=True)
        keys = ((port.key, of.task, of.address, of.port) for port, of in self.backends)
        yield from zip(keys, _times(self.backend_rows, BACKEND_ROW), strict=True)


def _times(rows: bytearray, size: int) -> Iterator[bytes]:
    first = _BEFORE_TIMES[size]
    return (bytes(rows[at : at + TIMES.size]) for at in range(first, len(rows), size))


def columns(rows: Iterable[Sequence[int]], count: int) -> Sequence[Sequence[int]]:
    """What `count` numbers of bare rows are, one after the other: the fast way to go through many of them."""
    return list(zip(*rows, strict=True)) or [()] * count


def totals(port_rows: bytearray) -> Counters:
    """The sum of ports' rows."""
    sums = [0] * 14
    for at in range(0, len(port_rows), PORT_ROW):
        sums = [one + other for one, other in zip(sums, _TOTALS.unpack_from(port_rows, at), strict=True)]
    accepted, closed, failovers, _, received, sent, _, _, *refused = sums
    return Counters(accepted, closed, sum(refused), failovers, received, sent)


def _port_counts(row: tuple[int, ...]) -> PortCounts:
    accepted, closed, failovers, waited, received, sent, dropped, masked, *refused = row[:14]
    return PortCounts(
        accepted,
        closed,
        failovers,
        waited,
        received,
        sent,
        dropped,
        masked,
        Refused(*refused),
        *_histograms(row[14:]),
    )


def _backend_counts(row: tuple[int, ...]) -> BackendCounts:
    chosen, ended, connected, failed, received, sent, sampled, rtt, retransmitted, active, standing = row[:11]
    return BackendCounts(
        chosen,
        ended,
        connected,
        failed,
        received,
        sent,
        sampled,
        rtt,
        retransmitted,
        *_histograms(row[11:]),
        active,
        standing != 0,
    )


def _histograms(numbers: tuple[int, ...]) -> tuple[Histogram, Histogram, Histogram]:
    connect, first_byte, duration = (_histogram(numbers[at : at + 26]) for at in (0, 26, 52))
    return connect, first_byte, duration


def _histogram(numbers: Sequence[int]) -> Histogram:
    total, _, *buckets = numbers
    return Histogram(total, tuple(buckets))
