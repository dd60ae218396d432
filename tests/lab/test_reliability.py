"""The short form of every scenario: what users must not notice of updates, crashes and nodes that vanish."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from agents import Agents
from aim import judge
from front import Meshlb
from scenario import Scenario, Stage
from scenarios import ALL

from meshlb.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("agents"), pytest.mark.timeout(240)]

# Other work keeps the machine busy: what takes time has room and another attempt, what is counted neither.
ROOM = 3.0
ATTEMPTS = 2


@pytest.fixture(scope="module")
def stage(lab: Lab, running_agents: Agents, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The session's lab and agents; they are what they were afterwards."""
    yield Stage(lab, Meshlb(running_agents), tmp_path_factory.mktemp("stage"), short_form=True, say=print)
    running_agents.stop()
    running_agents.start()


@pytest.mark.parametrize("scenario", ALL, ids=[scenario.name for scenario in ALL])
def test_short_form(stage: Stage, scenario: Scenario) -> None:
    for _ in range(ATTEMPTS):
        seen = stage.play(scenario, scenario.short)
        verdict = judge(scenario.aim, seen, room=ROOM)
        print(verdict.sentence, stage.spoilt)
        if verdict.is_met:
            break
        assert stage.spoilt or judge(scenario.aim, seen, room=math.inf).missed == ()
    assert verdict.missed == ()
