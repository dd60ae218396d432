"""Who may read what an agent says: not a website that somebody's browser shows."""

from __future__ import annotations

import pytest

from meshlb.http.guard import refusal

NAMES = frozenset({"node1"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "127.0.0.1:9377"},
        {"Host": "192.0.2.7"},
        {"Host": "[::1]:9377"},
        {"Host": "localhost:9377"},
        {"Host": "NODE1:9377"},
        {"Host": "node1."},
        {"Host": "node1:9377", "Origin": "http://node1:9377", "Sec-Fetch-Site": "same-origin"},
        {"Host": "127.0.0.1:1", "Sec-Fetch-Site": "none"},
        {
            "Host": "node1",
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        },
    ],
)
def test_let_in(headers: dict[str, str]) -> None:
    assert refusal(headers, NAMES) == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:9377"},
        {"Host": "node1.evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1@evil.example"},
        {"Host": "evil.example#@127.0.0.1@"},
        {"Host": "[::1"},
        {"Host": ":9377"},
        {"Host": "127.0.0.1:1", "Origin": "http://evil.example"},
        {"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:2"},
        {"Host": "127.0.0.1:1", "Origin": "null"},
        {"Host": "127.0.0.1:1", "Origin": "http://[::1"},
        {"Host": "127.0.0.1:1", "Sec-Fetch-Site": "cross-site"},
        {"Host": "127.0.0.1:1", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {
            "Host": "127.0.0.1:1",
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "iframe",
        },
    ],
)
def test_kept_out(headers: dict[str, str]) -> None:
    assert refusal(headers, NAMES)
