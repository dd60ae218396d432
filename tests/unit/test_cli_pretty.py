"""`service inspect --pretty`: docker's own lines, then the policies and what is wrong with the labels."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from docker_words import DOCKER, MODES, plain_service, shown_service

from meshlb.cli.humanize import exact_duration
from meshlb.cli.policy_lines import spelled
from meshlb.cli.pretty_service import service_lines
from meshlb.policy import KEYS, Policy, from_settings


def lines(service: dict[str, Any]) -> list[str]:
    """The lines without the spaces at their ends."""
    return [line.rstrip() for line in service_lines(service, {"net-front": "front"}) if line.strip()]


def docker_s(name: str) -> list[str]:
    return [line.rstrip() for line in DOCKER["pretty"][name].splitlines() if line.strip()]


def test_docker_s_lines_come_first() -> None:
    shown = lines(shown_service(DOCKER["full"]))
    assert shown[: shown.index("Policies:")] == docker_s("full")


@pytest.mark.parametrize("mode", MODES)
def test_a_service_that_publishes_nothing_has_no_policies(mode: str) -> None:
    assert lines(plain_service(MODES[mode])) == docker_s(mode)


def test_policies_and_problems() -> None:
    service = shown_service(DOCKER["full"])
    service["Spec"]["Labels"] = {
        "meshlb.balance": "leastconn",
        "meshlb.port.443.hold": "90s",
        "meshlb.port.444.hold": "1s",
        "meshlb.foo": "1",
        "meshlb.rate": "many",
    }
    shown = lines(service)
    shown = shown[shown.index("Policies:") :]
    assert shown[1:3] == [" 80/tcp:", "  balance = leastconn"]
    second = shown.index(" 443/tcp:")
    assert "  hold = none  (default)" in shown[:second]
    assert "  hold = 90s" in shown[second:]
    problems = shown[shown.index("Problems:") + 1 :]
    assert len(problems) == 3
    assert any("label meshlb.foo: unknown key" in problem for problem in problems)
    assert any("does not publish port 444" in problem for problem in problems)
    assert any('rate: "many" is not connections per second' in problem for problem in problems)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(balance="source", source_prefix=(24, 64), locality="strict", retries=3, hold=90, drain=0.25),
        Policy(rate=100, max_conn=7, proxy_protocol=2, allow=("10.0.0.0/8", "::1/128"), idle_timeout=3600),
        Policy(rate=0.5, check="tcp", check_interval=1.5, flow_timeout=5400, connect_timeout=0.015),
    ],
)
def test_what_is_shown_could_be_a_label(policy: Policy) -> None:
    shown = spelled(policy)
    assert sorted(key.field for key in KEYS.values()) == sorted(field.name for field in fields(Policy))
    assert from_settings(shown.items(), "") == (policy, ())


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (250 * 10**6, "250ms"),
        (15 * 10**8, "1.5s"),
        (90 * 10**9, "1m30s"),
        (3600 * 10**9, "1h0m0s"),
        (2160 * 3600 * 10**9, "2160h0m0s"),
    ],
)
def test_durations_are_go_s(nanoseconds: int, text: str) -> None:
    assert exact_duration(nanoseconds) == text
