"""A line for each connection that has ended: what it says, and what keeps it from being more than one."""

from __future__ import annotations

import ipaddress
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from written import Written

from meshlb.access_log import details, write
from meshlb.model import BackendState, Port
from meshlb.policy import from_settings
from meshlb.records import REASONS, Ended, Subjects
from meshlb.table import Backend

PORT = Port(80, 8000)
BACKEND = Backend("10.0.0.5", 8000, "t1", "web.1", "192.0.2.2", BackendState.UP)
ENDED = Ended(
    1_700_000_000.5, "198.51.100.7:51234", PORT, "web", BACKEND, 78, 1203, 0.000312, 0.0021, 0.0045, 1, "done"
)


@contextmanager
def logged(style: str) -> Iterator[Written]:
    written = Written(style)
    try:
        yield written
    finally:
        written.end()


def row(address: str, port: int, backend: int, reason: str, connect: int = 5) -> bytes:
    found = ipaddress.ip_address(address)
    packed = found.packed if found.version == 6 else bytes(10) + b"\xff\xff" + found.packed
    numbers = (7_000_000, 2_000_000, 3, 4, connect, 6, port, backend, 999, 2, REASONS.index(reason))
    return struct.pack("=16s4Q4I2HB3x", packed, *numbers)


def test_a_line_says_everything_once() -> None:
    with logged("text") as stream:
        write([ENDED], 0, {"192.0.2.2": "node2"})
    assert stream.getvalue() == (
        "2023-11-14T22:13:20.500Z INFO    connection client=198.51.100.7:51234 port=80/tcp service=web "
        "task=web.1 backend=10.0.0.5:8000 node=node2 received=78 sent=1203 connect_ms=0.312 "
        "first_byte_ms=2.1 duration_ms=4.5 attempts=1 reason=done\n"
    )


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    six = replace(BACKEND, address="fd00::1")
    assert details(replace(ENDED, backend=six), {})["backend"] == "[fd00::1]:8000"


def test_json_has_numbers() -> None:
    with logged("json") as stream:
        write([ENDED], 0, {})
    found = json.loads(stream.getvalue())
    assert (found["sent"], found["connect_ms"], found["node"], found["logger"]) == (
        1203,
        0.312,
        "192.0.2.2",
        "meshlb.access",
    )


def test_equal_lines_are_not_repetitions() -> None:
    with logged("text") as stream:
        write([ENDED] * 50, 0, {})
    assert len(stream.getvalue().splitlines()) == 50


def test_what_is_missing_is_told() -> None:
    with logged("text") as stream:
        write([], 7, {})
    assert "lost=7" in stream.getvalue()


def test_hostile_names_stay_on_their_line() -> None:
    hostile = Ended(0, "", PORT, "a\nINFO connection", None, 0, 0, None, None, 0, 0, "no_backend")
    with logged("text") as stream:
        write([hostile], 0, {})
    assert len(stream.getvalue().splitlines()) == 1


def test_records_get_the_names_that_their_numbers_had() -> None:
    subjects = Subjects({3: (PORT, "web")}, {9: BACKEND})
    rows = row("192.0.2.1", 3, 9, "done") + row("2001:db8::1", 3, 0xFFFFFFFF, "no_backend", 0xFFFFFFFF)
    one, other = subjects.ended(bytearray(rows), monotonic=8.0, now=1000.0)
    assert (one.at, one.client, one.service, one.backend) == (999.0, "192.0.2.1:999", "web", BACKEND)
    assert (one.received, one.sent, one.connect, one.duration) == (3, 4, 5e-6, 2.0)
    assert (other.client, other.backend, other.connect, other.reason) == (
        "[2001:db8::1]:999",
        None,
        None,
        "no_backend",
    )
    subjects.forget([3], [9])
    assert list(subjects.ended(bytearray(rows), 8.0, 1000.0)) == []


@pytest.mark.parametrize(("text", "value"), [("on", True), ("true", True), ("off", False), ("false", False)])
def test_it_is_a_switch(text: str, value: bool) -> None:
    policy, problems = from_settings([("access-log", text)], "")
    assert (policy.access_log, problems) == (value, ())


def test_what_it_is_not() -> None:
    assert from_settings([("access-log", "yes")], "")[1] == ('access-log: "yes" is not on or off',)
