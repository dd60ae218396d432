"""The same commands given to docker and to meshlb on one real swarm: the same state, the same words."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ages import without_ages
from docker_json import essence, unordered

from meshlb.lab import IMAGE, Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def swarm(machine: None) -> Iterator[Lab]:
    with Lab.up(2, name=f"test-{os.getpid()}-golden") as lab:
        yield lab


@pytest.fixture(scope="module")
def golden(swarm: Lab) -> dict[str, dict[str, Any]]:
    """Everything that both clients did, done once."""
    environment = f"PYTHONPATH={ROOT}:{ROOT / 'tests/support'}"
    command = ["env", environment, sys.executable, str(ROOT / "tests/support/golden_run.py"), IMAGE]
    found: dict[str, dict[str, Any]] = json.loads(swarm.nodes[0].run(command, timeout=240).stdout)
    return found


def differences(cases: dict[str, Any]) -> dict[str, Any]:
    """The cases in which the two clients differ."""
    return {line: (one, other) for line, (one, other) in cases.items() if one != other}


def comparable(result: list[Any]) -> list[Any]:
    """How a client ended and what it made, without what differs by chance or from second to second."""
    code, made = result
    if isinstance(made, dict):
        return [code, unordered(essence(made))]
    made = re.sub(r"meshlb (join|unlock|join-token)\b", r"docker swarm \1", made.partition("Policies:")[0])
    return [code, [line.rstrip() for line in without_ages(made).splitlines() if line.strip()]]


@pytest.mark.parametrize("kind", ["created", "updated", "listed"])
def test_both_do_the_same(golden: dict[str, dict[str, Any]], kind: str) -> None:
    cases = {line: [comparable(result) for result in both] for line, both in golden[kind].items()}
    assert differences(cases) == {}


def test_there_are_many_cases_and_they_work(golden: dict[str, dict[str, Any]]) -> None:
    assert sum(len(cases) for cases in golden.values()) >= 60
    assert all(both[0][0] == 0 for both in golden["created"].values())
    refused = [line for line, both in golden["updated"].items() if both[0][0] != 0]
    assert refused == ["--endpoint-mode dnsrr"]  # Swarm refuses it to a service that publishes ports
