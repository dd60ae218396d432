"""A scenario: something that happens to a Swarm under load, what it must show, and how it is played."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aim import Aim, Seen
from front import Front
from load import EchoHold, Load
from waiting import eventually
from watch import Watch, containers

from meshlb.lab import IMAGE, Lab, Node

NAME = "web"
RATE = 110.0  # new connections a second on every node
MOST_OPEN = 1500  # of them at once: more than can begin before the first has timed out
LONG = 51  # echo connections, spread over the nodes
LEAD = 1.0  # seconds of load before and after
PATIENCE = 90.0
LOOKS = 0.2  # seconds between two questions to docker's command: without a pause they would keep a core busy
RETURN_PATIENCE = 180.0  # Swarm now and then takes most of a minute to have a node back
LONGEST = 1800.0  # seconds that the load lasts if nobody ends it
Say = Callable[[str], None]


@dataclass(frozen=True)
class Scenario:
    """`act` does it so many times; `spared` are the nodes whose own clients the aim is not about."""

    name: str
    what: str
    aim: Aim
    act: Callable[[Stage, int], None]
    rounds: int = 1
    short: int = 1  # rounds of the short form
    service: tuple[str, ...] = ("--replicas", "5")
    tasks: int = 5
    spared: tuple[str, ...] = ()
    renew: float = 0.0  # seconds after which a long connection makes way for a new one; 0 for never
    prepare: Callable[[Stage], None] = lambda stage: None  # before the load begins
    look: Callable[[Stage, Seen], None] = lambda stage, seen: None  # measures what the load has seen


@dataclass
class Stage:
    """Where scenarios are played: a lab, what stands in front of its services, and what was measured."""

    lab: Lab
    front: Front
    directory: Path
    short_form: bool = False
    say: Say = lambda line: None
    measured: dict[str, float] = field(default_factory=dict)
    found: dict[str, bool] = field(default_factory=dict)
    kills: list[tuple[float, float]] = field(default_factory=list)
    spoilt: str = ""  # why the last one was not what it should be: what it has shown says nothing

    def __post_init__(self) -> None:
        self.watch = Watch(self.lab, self.directory)  # of the scenario that is played

    # -- What the acts use

    def docker(self, *words: str, node: int = 0) -> str:
        """What docker says on a node."""
        return self.lab.nodes[node].run(["docker", *words], timeout=120).stdout.strip()

    def measure(self, name: str, seconds: float) -> None:
        """Keep the worst."""
        self.measured[name] = max(seconds, self.measured.get(name, 0.0))

    def find(self, name: str, so: bool) -> None:
        """Keep whether it was so every time."""
        self.found[name] = so and self.found.get(name, True)

    def scale(self, replicas: int) -> None:
        """Returns when all run."""
        self.docker("service", "scale", "--detach", f"{NAME}={replicas}")
        self.await_running(replicas)

    def await_running(self, count: int) -> None:
        """Until so many tasks run and no other one does."""
        eventually(
            lambda: self._running() == count and len(self.containers()) == count,
            timeout=PATIENCE,
            what=f"{count} tasks of {NAME}",
            every=LOOKS,
        )

    def _running(self) -> int:
        command = ("service", "ps", NAME, "--filter=desired-state=running", "--format={{.CurrentState}}")
        return sum(line.startswith("Running ") for line in self.docker(*command).splitlines())

    def containers(self) -> list[tuple[Node, str]]:
        """All containers of the service that run, with their nodes."""
        running = [node for node in self.lab.nodes if node.init]
        return [(node, name) for node in running for name in containers(node, NAME)]

    def victim(self, number: int) -> tuple[Node, str]:
        """One of them, of another node each time."""
        of_nodes = {node.name: (node, name) for node, name in self.containers()}
        return list(of_nodes.values())[number % len(of_nodes)]

    def update(self, *options: str) -> None:
        """Replace all tasks; returns when Swarm says that it has."""
        monitor = "1s" if self.short_form else "5s"
        self.docker("service", "update", "--detach", "--force", f"--update-monitor={monitor}", *options, NAME)
        state = ("service", "inspect", "--format={{.UpdateStatus.State}}", NAME)
        eventually(
            lambda: self.docker(*state) == "completed",
            timeout=PATIENCE,
            what="the update to complete",
            every=LOOKS,
        )

    def answers(self, node: Node, port: int = 80) -> str:
        """The name of the container that answers there; "" if none does."""
        try:
            with urllib.request.urlopen(f"http://{node.address}:{port}/", timeout=5) as answer:
                return str(answer.readline().decode().strip())
        except OSError:
            return ""

    def power_off(self, node: Node) -> float:
        """First its link is cut, so that nothing that dies there can say so. When that was (wall)."""
        running = containers(node)
        began = time.time()
        self.lab.cut(node)
        self.kills.append((began, time.time()))
        self.watch.lose(running, began)
        self.lab.kill(node)
        self.front.lost(node)
        return began

    def crash(self, node: Node) -> float:
        """SIGKILL to what stands in front there; seconds until it serves again."""
        began = time.time()
        seconds = self.front.crash(node)
        self.kills.append((began, began + min(seconds, self.front.kill_seconds)))
        return seconds

    def power_on(self, node: Node) -> None:
        """Returns when Swarm has the node back, and the front serves there."""
        self.lab.start(node)
        self.front.back(node)
        self.watch.start(node.name)
        manager = next(node for node in self.lab.nodes if node.name == "node1")
        command = ["docker", "node", "ls", "--format={{.Hostname}} {{.Status}}"]
        eventually(
            lambda: manager.run(command, check=False).stdout.count(" Ready") == len(self.lab.nodes),
            timeout=RETURN_PATIENCE,
            what=f"{node.name} to be ready again",
            every=LOOKS,
        )

    # -- How one is played

    def play(self, scenario: Scenario, rounds: int) -> Seen:
        """Set it up, play it so many times under load, clear up, and say what was seen."""
        self.measured, self.found, self.kills, self.spoilt = {}, {}, [], ""
        self.watch = Watch(self.lab, self.directory / f"{scenario.name}-{time.time():.0f}")
        scenario.prepare(self)
        with self._serving(scenario):
            self.watch.start()
            try:
                seen = self._load(scenario, rounds)
            finally:
                self.watch.stop()
            scenario.look(self, seen)
            return dataclasses.replace(seen, measured=dict(self.measured), found=dict(self.found))

    def _load(self, scenario: Scenario, rounds: int) -> Seen:
        judged = tuple(node.address for node in self.lab.nodes if node.name not in scenario.spared)
        with self._long(scenario) as hold, self._short() as load:
            began = time.monotonic()
            time.sleep(LEAD)
            scenario.act(self, rounds)
            time.sleep(LEAD)
            seconds = time.monotonic() - began
            return Seen(seconds, load.stop(), hold.stop(), judged, self.watch.ends(), kills=tuple(self.kills))

    def _short(self) -> Load:
        addresses = [f"{node.address}:80" for node in self.lab.nodes]
        return Load(addresses, rate=RATE, concurrency=MOST_OPEN, steady=True, seconds=LONGEST)

    def _long(self, scenario: Scenario) -> EchoHold:
        addresses = [f"{node.address}:9000" for node in self.lab.nodes]
        return EchoHold(
            *addresses, count=LONG, greeted=True, reopen=True, seconds=LONGEST, renew=scenario.renew
        )

    def _reaches(self, node: Node, tasks: int) -> bool:
        """Whether all tasks have answered there, asked in turn."""
        turns = range(2 * tasks)
        return len({self.answers(node) for _ in turns} - {""}) == tasks and all(greets(node) for _ in turns)

    @contextlib.contextmanager
    def _serving(self, scenario: Scenario) -> Iterator[None]:
        create = ("service", "create", "--quiet", "--detach", "--name", NAME, "--env", "GREET=1")
        self.docker(*create, *self.front.options, *scenario.service, IMAGE)
        try:
            self.await_running(scenario.tasks)
            eventually(
                lambda: all(self._reaches(node, scenario.tasks) for node in self.lab.nodes),
                timeout=PATIENCE,
                what="every node to lead to all tasks on all ports",
            )
            yield
        finally:
            self.docker("service", "rm", NAME)
            eventually(
                lambda: not self.containers(), timeout=PATIENCE, what="the tasks to be gone", every=LOOKS
            )


def greets(node: Node) -> bool:
    """Whether the echo server is reached there, too."""
    try:
        with socket.create_connection((node.address, 9000), 2) as connection:
            connection.settimeout(2)
            return bool(connection.recv(100))
    except OSError:
        return False
