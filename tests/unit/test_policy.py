"""Texts become policies, and bad ones become sentences."""

from __future__ import annotations

import pytest

from meshlb.policy import Policy, from_settings, parse_duration


@pytest.mark.parametrize(("text", "seconds"), [("300ms", 0.3), ("1.5s", 1.5), ("2m", 120), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, 0, 3600) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-1s", "1 s", "1d", "1e3s", "٣s", "nan", "99999999999s", "2h"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_duration(text, 0, 3600)


def test_a_bad_value_keeps_the_base() -> None:
    base = Policy(connect_timeout=2)
    policy, problems = from_settings([("connect-timeout", "never")], "mesh.toml: ", base)
    assert policy == base
    assert problems == ('mesh.toml: connect-timeout: "never" is not a duration from 10ms to 60s',)
