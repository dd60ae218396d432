"""Families as the protobuf messages that Prometheus scrapes when it takes native histograms. Pure.

The text formats have none yet. The schema is io.prometheus.client of prometheus/client_model (metrics.proto):
few kinds of members, so that writing them takes less than a library with generated code would weigh.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

from prometheus_client.core import Metric

from meshlb.metrics.exposition import Family, head
from meshlb.metrics.histogram import BOUNDS
from meshlb.model import Histogram

_KINDS = {"counter": 0, "gauge": 1, "summary": 2, "histogram": 4}
_VALUES = {"counter": 3, "gauge": 2, "summary": 4, "histogram": 7}  # members of a Metric
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_DOUBLE = struct.Struct("<d")
_FIRST_DOUBLE = b"\x09"  # the first member, and a double
_EMPTY = b"\x08\x00\x10\x00"  # a span without buckets: a native histogram all the same
_FIRST = -13  # the index of the native bucket that our second one is: they end at 2 ** index seconds


def protobuf(families: Iterable[Family | Metric]) -> bytes:
    """All families, each after its length."""
    known = _Labels()
    return b"".join(_varint(len(each)) + each for each in (_family(of, known) for of in families))


class _Labels(dict[str, bytes]):
    """`{port="80"}` as members of a Metric. Those of a backend stand in many families, and are made once."""

    def __missing__(self, tail: str) -> bytes:
        pairs = _LABEL.findall(tail)
        found = self[tail] = b"".join(_label(name, _unescaped(value)) for name, value in pairs)
        return found


def _family(of: Family | Metric, known: _Labels) -> bytes:
    about = head(of)
    parts = [_bytes(1, about.name.encode()), _bytes(2, about.help.encode()), _number(3, _KINDS[about.kind])]
    values = _values(of, known) if isinstance(of, Family) else _of_library(of)
    member = _VALUES[about.kind]
    parts += [_bytes(4, labels + _bytes(member, value)) for labels, value in values]
    return b"".join(parts)


def _of_library(of: Metric) -> Iterator[tuple[bytes, bytes]]:
    for sample in of.samples:
        yield b"".join(_label(*each) for each in sample.labels.items()), _double(1, sample.value)


def _values(of: Family, known: _Labels) -> Iterator[tuple[bytes, bytes]]:
    """The labels and the value of each metric."""
    if of.kind == "histogram":
        yield from ((known[tail], _histogram(counted)) for tail, counted in of.histograms)
    elif of.kind == "summary":
        for count, total in zip(of.samples[::2], of.samples[1::2], strict=True):
            tail, _, number = count.removeprefix("_count").rpartition(" ")
            yield known[tail], _number(1, int(number)) + _double(2, float(total.rpartition(" ")[2]))
    else:
        for sample in of.samples:
            tail, _, number = sample.rpartition(" ")
            yield known[tail], _FIRST_DOUBLE + _DOUBLE.pack(float(number))


def _histogram(of: Histogram) -> bytes:
    """Classic buckets and native ones: who scrapes takes what it wants."""
    *sums, count = accumulate(of.buckets)
    buckets = [
        _bytes(3, _number(1, each) + _double(2, bound)) for each, bound in zip(sums, BOUNDS, strict=True)
    ]
    whole = _number(1, count) + _double(2, of.total / 1e6)
    return whole + b"".join(buckets) + _native(of.buckets)


def _native(buckets: Sequence[int]) -> bytes:
    """Schema 0: bounds are powers of two, as ours. What took up to our first bound is in the zero bucket."""
    zero = _number(5, 0) + _double(6, BOUNDS[0]) + _number(7, buckets[0])
    spans, filled, end = b"", [0], 0
    for first, after in _runs(buckets[1:]):
        offset = first - end + (0 if spans else _FIRST)
        spans += _bytes(12, _number(1, _zigzag(offset)) + _number(2, after - first))
        filled += buckets[1 + first : 1 + after]
        end = after
    deltas = b"".join(_number(13, _zigzag(one - before)) for before, one in pairwise(filled))
    return zero + (spans or _bytes(12, _EMPTY)) + deltas


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where numbers that are not 0 begin and end."""
    begun = None
    for at, number in enumerate((*numbers, 0)):
        if number and begun is None:
            begun = at
        elif not number and begun is not None:
            yield begun, at
            begun = None


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value) if "\\" in value else value


def _label(name: str, value: str) -> bytes:
    return _bytes(1, _bytes(1, name.encode()) + _bytes(2, value.encode()))


def _bytes(member: int, content: bytes) -> bytes:
    return bytes((member << 3 | 2,)) + _varint(len(content)) + content


def _number(member: int, value: int) -> bytes:
    return bytes((member << 3,)) + _varint(value)


def _double(member: int, value: float) -> bytes:
    return bytes((member << 3 | 1,)) + _DOUBLE.pack(value)


def _zigzag(value: int) -> int:
    return value * 2 if value >= 0 else -value * 2 - 1


_ONE_BYTE = tuple(bytes((value,)) for value in range(128))


def _varint(value: int) -> bytes:
    if value < 128:
        return _ONE_BYTE[value]
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
