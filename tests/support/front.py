"""What stands in front of a service on every node of a lab: scenarios can be played against several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from agents import Agent, Agents
from waiting import eventually

from meshlb.lab import Lab, Node

ASIDE = "backends set aside after"


class Front(Protocol):
    """Leads ports 80, 81 (by source) and 9000 of every node to the tasks of the service `web`."""

    name: str
    options: tuple[str, ...]  # what `docker service create` needs for that
    untold: tuple[str, ...]  # measurements that it does not tell
    kill_seconds: float  # from the beginning of `crash` until it is dead

    def up(self, lab: Lab) -> None:
        """Begin, on every node."""

    def down(self) -> None:
        """End, on every node."""

    def back(self, node: Node) -> None:
        """The node has been powered on again."""

    def lost(self, node: Node) -> None:
        """The node has been powered off."""

    def keep(self, node: Node) -> None:
        """From now on a supervisor holds what it can while the front of this node is restarted."""

    def replace(self, node: Node) -> None:
        """Restart it as for an upgrade, as gently as it can."""

    def crash(self, node: Node) -> float:
        """Kill it, and wait until its supervisor has it back; how many seconds that took."""

    def set_aside(self, node: Node, by: Node) -> bool:
        """Whether `by` gives the tasks of a silent node no new connection, unless that is untold."""


class Meshlb:
    """Our own agents."""

    name = "meshlb"
    untold: tuple[str, ...] = ()
    kill_seconds = 0.05

    def __init__(self, agents: Agents, labels: Sequence[str] = ()) -> None:
        self.agents = agents
        self.options: tuple[str, ...] = (
            *("--publish", "80:8000", "--publish", "81:8000", "--publish", "9000:9000"),
            *(f"--label={label}" for label in ("meshlb.port.81.balance=source", *labels)),
        )

    def up(self, lab: Lab) -> None:
        """Start those that do not run yet."""
        missing = [node.name for node in lab.nodes if node.name not in self.agents.current]
        if missing:
            self.agents.start(*missing)

    def down(self) -> None:
        """SIGTERM to all; one that does not end well is told."""
        bad = {name: code for name, code in self.agents.stop().items() if code}
        if bad:
            print(f"agents ended with exit codes {bad}")

    def back(self, node: Node) -> None:
        """A new agent."""
        self.agents.start(node.name)

    def lost(self, node: Node) -> None:
        """Its agent has died with it."""
        self.agents.forget(node.name)

    def keep(self, node: Node) -> None:
        """Under a keeper."""
        self.agents.stop(node.name)
        self.agents.start(node.name, options=("--keeper",))

    def replace(self, node: Node) -> None:
        """A handover."""
        self.agents.replace(node.name)

    def crash(self, node: Node) -> float:
        """Until the next process below the keeper says that it is healthy."""
        agent, began = self.agents.current[node.name], time.monotonic()
        before = agent.worker_pid()
        agent.crash()
        eventually(lambda: self._is_another(agent, before), timeout=30, what=f"an agent on {node.name} again")
        return time.monotonic() - began

    def _is_another(self, agent: Agent, before: int) -> bool:
        return agent.worker_pid() not in (0, before) and agent.healthy()

    def set_aside(self, node: Node, by: Node) -> bool:
        """As `/api/v1/status` has it."""
        return "up" not in self.agents.current[by.name].states_on("web", node.address)
