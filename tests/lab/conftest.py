"""The session's lab: a real Swarm of three nodes, and an agent in every node."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from agents import Agent, Agents
from docker_cli import Serve, await_running, docker

from meshlb.lab import Lab, LabBusyError, down, names, why_not
from meshlb.lab.image import IMAGE

PREFIX = "test-"  # then our pid, as several sessions may run at once, then what the test likes


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need agents."""
    for item in items:
        if "running_agents" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.agents)


@pytest.fixture(scope="session")
def machine() -> None:
    """A machine that can run labs, without those of sessions that were killed."""
    require_lab()
    _remove_orphans()


@pytest.fixture(scope="session")
def lab(machine: None) -> Iterator[Lab]:
    """A Swarm of node1 (the manager), node2 and node3."""
    with Lab.up(3, name=f"{PREFIX}{os.getpid()}") as lab:
        yield lab


def require_lab() -> None:
    """Skip with the reason where no lab can run; fail where MESHLB_REQUIRE_LAB says it must."""
    reason = why_not()
    if not reason:
        return
    if os.environ.get("MESHLB_REQUIRE_LAB") == "1":
        pytest.fail(f"MESHLB_REQUIRE_LAB=1, but {reason}")
    pytest.skip(reason)


def _remove_orphans() -> None:
    for name in names():
        pid = name.removeprefix(PREFIX).split("-")[0]
        if name.startswith(PREFIX) and pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            with suppress(LabBusyError):  # a session that began with ours does it
                down(name)


@pytest.fixture(scope="session")
def running_agents(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """An agent in every node for the whole session; it must end well."""
    agents = Agents(lab, tmp_path_factory.mktemp("agents"))
    try:
        agents.start()
        yield agents
    finally:
        said = {name: agent.said()[-4000:] for name, agent in agents.current.items()}
        codes = agents.stop()
    assert set(codes.values()) == {0}, (codes, said)


@pytest.fixture
def serve(lab: Lab) -> Iterator[Serve]:
    """Creates services with plain docker, whose tasks tests wait for; they are gone again after the test."""
    names: list[str] = []

    def create(name: str, *options: str, image: str = IMAGE, command: Sequence[str] = ()) -> None:
        names.append(name)
        docker(lab, "service", "create", "--quiet", "--detach", "--name", name, *options, image, *command)

    yield create
    for name in names:
        docker(lab, "service", "rm", name)
    for name in names:  # else the next test takes their answers for those of its own
        await_running(lab, name, 0)


@pytest.fixture
def agents(running_agents: Agents, request: pytest.FixtureRequest) -> Iterator[dict[str, Agent]]:
    """The session's agents by their nodes' names; what they say during a failing test is shown with it."""
    before = {name: len(agent.said()) for name, agent in running_agents.current.items()}
    began = time.time()
    yield running_agents.current
    for name, agent in running_agents.current.items():
        text = agent.said()[before[name] :]
        request.node.add_report_section(
            "teardown", f"agent of {name}, {time.time() - began:.0f} s", text[-8000:]
        )
