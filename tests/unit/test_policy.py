"""Texts become policies, and bad ones become sentences."""

from __future__ import annotations

import pytest

from meshlb.policy import KEYS, Policy, from_settings, parse_duration


@pytest.mark.parametrize(("text", "seconds"), [("300ms", 0.3), ("1.5s", 1.5), ("2m", 120), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, 0, 3600) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-1s", "1 s", "1d", "1e3s", "٣s", "nan", "99999999999s", "2h"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_duration(text, 0, 3600)


def test_a_sentence_is_bounded_and_can_be_printed() -> None:
    evil = "\x1b]0;x\x07\n\u202e\ud800" * 50
    _, problems = from_settings([(evil, ""), ("balance", evil), ("allow", evil)], "")
    assert len(problems) == 3
    assert all(problem.isprintable() and len(problem) < 700 for problem in problems)


def test_a_bad_value_keeps_the_base() -> None:
    base = Policy(connect_timeout=2)
    policy, problems = from_settings([("connect-timeout", "never")], "mesh.toml: ", base)
    assert policy == base
    assert problems == ('mesh.toml: connect-timeout: "never" is not a duration from 10ms to 60s',)


@pytest.mark.parametrize(
    ("key", "text", "field", "value"),
    [
        ("balance", "source", "balance", "source"),
        ("source-prefix", "/24", "source_prefix", (24, 128)),
        ("source-prefix", "24,64", "source_prefix", (24, 64)),
        ("locality", "prefer", "locality", "prefer"),
        ("retries", "2", "retries", 2),
        ("retries", "all", "retries", 255),
        ("hold", "30s", "hold", 30),
        ("hold", "none", "hold", 0),
        ("slow-start", "1m", "slow_start", 60),
        ("drain", "90s", "drain", 90),
        ("idle-timeout", "1h", "idle_timeout", 3600),
        ("max-conn", "100", "max_conn", 100),
        ("max-conn", "off", "max_conn", 0),
        ("max-conn-backend", "10", "max_conn_backend", 10),
        ("queue", "0", "queue", 0),
        ("queue-timeout", "5s", "queue_timeout", 5),
        ("rate", "100/s", "rate", 100),
        ("rate", "600/m", "rate", 10),
        ("rate-burst", "50", "rate_burst", 50),
        ("allow", "10.0.0.0/8, 2001:db8::/32", "allow", ("10.0.0.0/8", "2001:db8::/32")),
        ("allow", "", "allow", ()),
        ("deny", " ", "deny", ()),
        ("listen", "none", "listen", ()),
        ("accept-proxy", "", "accept_proxy", ()),
        ("deny", "192.0.2.1", "deny", ("192.0.2.1/32",)),
        ("proxy-protocol", "v2", "proxy_protocol", 2),
        ("accept-proxy", "10.0.0.0/8", "accept_proxy", ("10.0.0.0/8",)),
    ],
)
def test_every_key(key: str, text: str, field: str, value: object) -> None:
    policy, problems = from_settings([(key, text)], "")
    assert problems == ()
    assert getattr(policy, field) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("source-prefix", "0"),
        ("source-prefix", "24,64,1"),
        ("source-prefix", "33"),
        ("retries", "-1"),
        ("retries", "255"),
        ("hold", "2h"),
        ("max-conn", "1e3"),
        ("max-conn", "٣"),
        ("queue", "65536"),
        ("rate", "100"),
        ("rate", "0/s"),
        ("rate", "50001/s"),
        ("allow", "10.0.0.1/8"),
        ("allow", "10.0.0.0/8,"),
        ("allow", "fe80::%eth0"),
        ("deny", ",".join(f"10.0.{number // 256}.{number % 256}" for number in range(257))),
        ("proxy-protocol", "v3"),
        ("accept-proxy", "localhost"),
    ],
)
def test_every_bad_value_is_told_and_leaves_the_default(key: str, text: str) -> None:
    policy, problems = from_settings([(key, text)], "service web: label meshlb.")
    assert policy == Policy()
    assert problems[0].startswith(f"service web: label meshlb.{key}: ")
    assert KEYS[key].allowed in problems[0]
    assert len(problems[0]) < 400
