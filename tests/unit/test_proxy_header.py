"""The PROXY protocol: what is a header, what may become one, and what never does."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlb._proxy_header import begins, format_header, parse

V2 = b"\r\n\r\n\0\r\nQUIT\n"


def address(text: str) -> bytes:
    packed = ipaddress.ip_address(text).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


A, B, C = address("192.0.2.1"), address("198.51.100.7"), address("2001:db8::1")
V4_BODY = bytes((192, 0, 2, 1, 198, 51, 100, 7, 0, 9, 0, 80))


@pytest.mark.parametrize(
    ("header", "meaning"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 9 80\r\n", (A, 9, B, 80)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::1 0 65535\r\n", (C, 0, C, 65535)),
        (b"PROXY UNKNOWN\r\n", (None, 0, None, 0)),
        (b"PROXY UNKNOWN what ever it says\r\n", (None, 0, None, 0)),
        (V2 + b"\x21\x11\0\x0c" + V4_BODY, (A, 9, B, 80)),
        (V2 + b"\x21\x21\0\x24" + C + C + b"\0\x01\0\x02", (C, 1, C, 2)),
        (V2 + b"\x20\x00\0\x00", (None, 0, None, 0)),
        (V2 + b"\x20\x11\0\x0c" + V4_BODY, (None, 0, None, 0)),
        (V2 + b"\x21\x00\0\x03abc", (None, 0, None, 0)),
        (V2 + b"\x21\x31\0\xd8" + bytes(216), (None, 0, None, 0)),
        (V2 + b"\x21\x11\0\x13" + V4_BODY + b"\x04\0\x04abcd", (A, 9, B, 80)),
    ],
)
def test_headers(header: bytes, meaning: tuple[object, ...]) -> None:
    assert parse(header + b"GET /") == (len(header), *meaning)
    for cut in range(len(header)):
        assert parse(header[:cut]) is None, "a split header only needs more"


@pytest.mark.parametrize(
    "header",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.7 9 80\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 9 80\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 9 80 \r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.7 9 80\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 09 80\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 9 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 9\r\n",
        b"PROXY TCP4 2001:db8::1 198.51.100.7 9 80\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.7 9 80\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.7 9 80\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
        V2 + b"\x31\x11\0\x0c" + V4_BODY,
        V2 + b"\x22\x11\0\x0c" + V4_BODY,
        V2 + b"\x21\x41\0\x0c" + V4_BODY,
        V2 + b"\x21\x13\0\x0c" + V4_BODY,
        V2 + b"\x21\x11\0\x0b" + V4_BODY[:11],
        V2 + b"\x21\x11\0\x0e" + V4_BODY + b"\x04\0",
        V2 + b"\x21\x11\0\x0f" + V4_BODY + b"\x04\0\x01",
        V2 + b"\x21\x11\x08\x01" + V4_BODY + bytes(2037),
    ],
)
def test_what_is_no_header(header: bytes) -> None:
    with pytest.raises(ValueError, match="not a PROXY header"):
        parse(header)


@given(st.binary(max_size=40), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", V2, V2 + b"\x21\x11"]))
def test_more_bytes_never_turn_a_refusal_into_a_header(tail: bytes, start: bytes) -> None:
    data, refused = start + tail, False
    for cut in range(len(data) + 1):
        try:
            parse(data[:cut])
        except ValueError:
            refused = True
        else:
            assert not refused


@given(
    st.sampled_from([1, 2]),
    st.ip_addresses(),
    st.integers(0, 65535),
    st.ip_addresses(),
    st.integers(0, 65535),
)
def test_what_is_written_can_be_read(
    version: int,
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    source_port: int,
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address,
    destination_port: int,
) -> None:
    one, other = address(str(source)), address(str(destination))
    header = format_header(version, one, source_port, other, destination_port)
    assert parse(header) == (len(header), one, source_port, other, destination_port)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"P", 0),
        (b"PROXY", 0),
        (b"PROXY ", 1),
        (b"PROXY TCP4", 1),
        (b"PR0", -1),
        (V2[:5], 0),
        (V2, 1),
        (b"\r\n\r\nX", -1),
        (b"", 0),
    ],
)
def test_what_may_become_one(data: bytes, answer: int) -> None:
    assert begins(data) == answer
