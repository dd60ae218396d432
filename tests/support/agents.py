"""meshlb-agent in the nodes of a lab, as their process managers see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from waiting import eventually

from meshlb.lab import Lab, Node

HTTP_PORT = 9377
STOP_SECONDS = 45.0
START_SECONDS = 120.0  # an engine whose machine was off needs up to a minute to be in its Swarm again
STATE_DIR = "/var/lib/meshlb"  # each node has its own
TAKEN_OVER = "has taken over"  # the last words of an agent whose sockets another one has
ROOT = Path(__file__).parents[2]


class Agent:
    """meshlb-agent in one node. `options` are its command line's."""

    def __init__(self, node: Node, log: Path, *options: str) -> None:
        self.node, self.log = node, log
        own = ("--http", f"0.0.0.0:{HTTP_PORT}", "--state-dir", STATE_DIR)
        with log.open("a") as output:
            self.process = node.popen(
                [sys.executable, "-m", "meshlb.agent", *own, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=str(ROOT),
            )

    def healthy(self) -> bool:
        """Whether it says so itself."""
        assert self.process.poll() is None, f"the agent of {self.node.name} ended: {self.said()}"
        return self._get("healthz") is not None

    def status(self) -> dict[str, Any]:
        """What it says of itself; empty when it does not answer."""
        return self._get("api/v1/status") or {}

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(
                f"http://{self.node.address}:{HTTP_PORT}/{path}", timeout=2
            ) as answer:
                return dict(json.loads(answer.read()))
        except (OSError, ValueError):
            return None

    def states_on(self, service: str, address: str) -> list[str]:
        """The states of the service's backends on the node of this address, as this agent has them."""
        status = self.status()
        names = {node["id"] for node in status.get("nodes", []) if node["address"] == address} | {address}
        found = [known for known in status.get("services", []) if known["name"] == service]
        backends = [backend for known in found for backend in known["ports"][0]["backends"]]
        return [backend["state"] for backend in backends if backend["node"] in names]

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def worker_pid(self) -> int:
        """The process that serves, below a keeper; 0 while there is none."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return max((int(pid) for pid in pids if self._serves(pid)), default=0)

    @staticmethod
    def _serves(pid: str) -> bool:
        try:
            return b"meshlb.agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def crash(self) -> None:
        """SIGKILL to the process that serves; its keeper starts it again."""
        pid = self.worker_pid()
        assert pid, f"no agent runs below the keeper of {self.node.name}: {self.said()}"
        os.kill(pid, signal.SIGKILL)

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


class Agents:
    """An agent in every node of a lab, by the nodes' names. Those that follow one another share a log."""

    def __init__(self, lab: Lab, logs: Path) -> None:
        self.lab, self._logs = lab, logs
        self.current: dict[str, Agent] = {}
        self._replaced: list[Agent] = []

    def start(self, *names: str, options: tuple[str, ...] = ()) -> None:
        """Start those of these nodes (of all, where none is named), and wait until they are healthy."""
        nodes = [node for node in self.lab.nodes if node.name in names or not names]
        for node in nodes:
            self.current[node.name] = Agent(node, self._logs / f"{node.name}.log", *options)
        self.await_healthy(*(node.name for node in nodes))

    def await_healthy(self, *names: str) -> None:
        """Until they all say that they are."""
        for name in names:
            eventually(
                self.current[name].healthy, timeout=START_SECONDS, what=f"the agent of {name} to be healthy"
            )

    def replace(self, name: str) -> None:
        """A new agent takes over from the one that runs there; that ends once its connections have."""
        before = self.current[name]
        told = before.said().count(TAKEN_OVER)
        self._replaced.append(before)
        self.current[name] = after = Agent(before.node, before.log, "--replace")
        eventually(
            lambda: after.healthy() and after.said().count(TAKEN_OVER) > told,
            timeout=30,
            what=f"the new agent of {name} to take over",
        )

    def forget(self, name: str) -> None:
        """The node has been powered off, with all that ran there."""
        lost = self.current.pop(name)
        lost.process.wait(STOP_SECONDS)

    def stop(self, *names: str) -> dict[str, int]:
        """SIGTERM to those of these nodes (to all, where none is named); their exit codes."""
        if not names:
            for agent in self._replaced:
                agent.stop()
            self._replaced.clear()
        return {name: self.current.pop(name).stop() for name in names or tuple(self.current)}
