"""The session's lab: a real Swarm of three nodes, and an agent in every node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_cli import Serve, docker
from waiting import eventually

from meshlb.lab import Lab, Node, down, names, why_not
from meshlb.lab.image import IMAGE

PREFIX = "test-"  # then our pid, as several sessions may run at once, then what the test likes
HEALTHZ = "http://127.0.0.1:9946/healthz"
STOP_SECONDS = 45.0


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
            down(name)


class Agent:
    """meshlb-agent in one node, as its process manager sees it."""

    def __init__(self, node: Node, log: Path) -> None:
        self.node, self.log = node, log
        with log.open("w") as output:
            self.process = node.popen(
                [sys.executable, "-m", "meshlb.agent"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=str(Path(__file__).parents[2]),
            )

    def healthy(self) -> bool:
        """Whether it says so itself."""
        assert self.process.poll() is None, f"the agent of {self.node.name} ended: {self.said()}"
        return self.node.run([sys.executable, "-c", _FETCH, HEALTHZ], check=False).returncode == 0

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


_FETCH = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2).read()"


@pytest.fixture(scope="session")
def running_agents(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Agent]]:
    """An agent in every node for the whole session; it must end well."""
    logs = tmp_path_factory.mktemp("agents")
    agents = {node.name: Agent(node, logs / f"{node.name}.log") for node in lab.nodes}
    try:
        for agent in agents.values():
            eventually(agent.healthy, timeout=30, what=f"the agent of {agent.node.name} to be healthy")
        yield agents
    finally:
        codes = {name: agent.stop() for name, agent in agents.items()}
    assert codes == dict.fromkeys(agents, 0), {name: agent.said()[-4000:] for name, agent in agents.items()}


@pytest.fixture
def serve(lab: Lab) -> Iterator[Serve]:
    """Creates services with plain docker; they are gone again after the test."""
    names: list[str] = []

    def create(name: str, *options: str, image: str = IMAGE) -> None:
        names.append(name)
        docker(lab, "service", "create", "--quiet", "--name", name, *options, image)

    yield create
    for name in names:
        docker(lab, "service", "rm", name)


@pytest.fixture
def agents(running_agents: dict[str, Agent], request: pytest.FixtureRequest) -> Iterator[dict[str, Agent]]:
    """The session's agents by their nodes' names; what they say during a failing test is shown with it."""
    before = {name: len(agent.said()) for name, agent in running_agents.items()}
    began = time.time()
    yield running_agents
    for name, agent in running_agents.items():
        text = agent.said()[before[name] :]
        request.node.add_report_section(
            "teardown", f"agent of {name}, {time.time() - began:.0f} s", text[-8000:]
        )
