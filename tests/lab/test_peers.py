"""The channel between agents on a real Swarm, with the certificates that Swarm itself has made."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import eventually

from meshlb.lab import Lab, Node

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

PORT = 17947  # agents of other tests may have the usual one
SCRIPT = Path(__file__).parents[1] / "support" / "peer_end.py"


class End:
    """One end of the channel, in a node of the lab."""

    def __init__(self, node: Node) -> None:
        self.node, self.said = node, list[str]()
        root = node.run(["docker", "info", "--format", "{{.DockerRootDir}}"]).stdout.strip()
        self.process = node.popen(
            [sys.executable, str(SCRIPT), root, str(PORT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=str(Path(__file__).parents[2]),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.strip())

    def do(self, line: str) -> None:
        """Give it a line."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def says(self, line: str, timeout: float = 30) -> None:
        """Wait until its last line begins with this one."""

        def said() -> bool:
            assert self.process.poll() is None, f"it ended: {self.said}"
            return bool(self.said) and self.said[-1].startswith(line)

        eventually(said, timeout=timeout, what=f"{self.node.name} to say {line!r}")

    def end(self) -> None:
        """The end of its input, and its own."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            code = self.process.wait(30)
        finally:
            self.kill()
        assert code == 0

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()


@contextlib.contextmanager
def end(node: Node) -> Iterator[End]:
    found = End(node)
    try:
        yield found
    except BaseException:
        found.kill()
        raise
    if found.process.poll() is None:
        found.end()


@pytest.fixture
def manager(lab: Lab) -> Node:
    return lab.node("node1")


@pytest.fixture
def worker(lab: Lab) -> Node:
    return lab.node("node2")


def test_a_worker_hears_what_a_manager_tells(manager: Node, worker: Node) -> None:
    with end(manager) as told, end(worker) as heard:
        told.do("publish web")
        heard.do(f"connect {manager.address}")
        heard.says("heard web")
        told.do("publish web db")
        heard.says("heard web db")
        told.do("silence")
        told.do("publish db")
        heard.says("heard db")


def test_a_worker_hears_the_agent_that_follows_one_that_was_killed(manager: Node, worker: Node) -> None:
    with end(worker) as heard:
        heard.do(f"connect {manager.address}")
        with end(manager) as told:
            told.do("publish before")
            heard.says("heard before")
            told.kill()
        with end(manager) as told:
            told.do("publish after")
            eventually(lambda: "heard after" in heard.said, timeout=30, what="the new agent's state")


def test_a_manager_whose_cable_is_pulled_is_missed_and_found_again(
    lab: Lab, manager: Node, worker: Node
) -> None:
    with end(manager) as told, end(worker) as heard:
        told.do("publish one")
        heard.do(f"connect {manager.address}")
        heard.says("heard one")
        lab.cut(worker)
        try:
            eventually(
                lambda: f"silent {manager.address}" in heard.said, timeout=30, what="the manager to be missed"
            )
            told.do("publish two")
        finally:
            lab.heal(worker)
        eventually(lambda: "heard two" in heard.said, timeout=30, what="the state of after the cut")


def test_a_worker_that_claims_to_be_a_manager_is_not_heard(lab: Lab, worker: Node) -> None:
    other = lab.node("node3")
    with end(other) as told, end(worker) as heard:
        told.do("forge forged")
        heard.do(f"connect {other.address}")
        heard.says(f"problem no manager's agent is reachable ({other.address}:{PORT}: it tells what services")
        assert not [line for line in heard.said if line.startswith("heard")]


def test_an_autolocked_manager_is_named(manager: Node, worker: Node) -> None:
    manager.run(["docker", "swarm", "update", "--autolock=true"])
    try:
        _wait_for_key(manager, "ENCRYPTED PRIVATE KEY")
        with end(manager) as told, end(worker) as heard:
            told.do("publish web")
            told.says("problem Swarm's autolock")
            heard.do(f"connect {manager.address}")
            manager.run(["docker", "swarm", "update", "--autolock=false"])
            eventually(lambda: "heard web" in heard.said, timeout=60, what="the unlocked manager's state")
    finally:
        manager.run(["docker", "swarm", "update", "--autolock=false"])
        _wait_for_key(manager, "BEGIN PRIVATE KEY")


def _wait_for_key(node: Node, text: str) -> None:
    root = node.run(["docker", "info", "--format", "{{.DockerRootDir}}"]).stdout.strip()
    key = Path(root) / "swarm" / "certificates" / "swarm-node.key"
    eventually(lambda: text in key.read_text(), timeout=60, what=f"{node.name}'s key to be {text}")


def test_a_new_authority_for_the_swarm_is_followed(manager: Node, worker: Node) -> None:
    """`docker swarm ca --rotate` gives every node another certificate, and then takes the old root away."""
    with end(manager) as told, end(worker) as heard:
        told.do("publish one")
        heard.do(f"connect {manager.address}")
        heard.says("heard one")
        before = _root_of(worker)
        manager.run(["docker", "swarm", "ca", "--rotate", "--quiet", "--detach"])
        told.do("publish during")
        heard.says("heard during")
        eventually(lambda: _root_of(worker) != before, timeout=120, what="the new root on the worker")
    with end(manager) as told, end(worker) as heard:
        told.do("publish after")
        heard.do(f"connect {manager.address}")
        heard.says("heard after")


def _root_of(node: Node) -> str:
    root = node.run(["docker", "info", "--format", "{{.DockerRootDir}}"]).stdout.strip()
    return (Path(root) / "swarm" / "certificates" / "swarm-root-ca.crt").read_text()
