"""The nouns of the mesh, as frozen values: what a source reports and what the plane serves.

A source (Swarm's engine, or a static file) gives whole `Snapshot`s. Everything here is immutable and
compares by value, so "did anything change" is `!=`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum


class Protocol(StrEnum):
    """The transport of a published port."""

    TCP = "tcp"
    UDP = "udp"


class BackendState(StrEnum):
    """`up` takes new connections, `draining` only keeps those it has, `down` has none."""

    UP = "up"
    DRAINING = "draining"
    DOWN = "down"


class PortState(StrEnum):
    """How a published port is served on this node."""

    SERVING = "serving"  # the agent listens on the published port itself
    REDIRECTED = "redirected"  # Docker holds the port; traffic is led to a port of the agent's own
    FAILED = "failed"  # not served; the reason says why and what to do


@dataclass(frozen=True, slots=True)
class Port:
    """A published port: what clients connect to, and the port number that tasks listen on."""

    published: int
    target: int
    protocol: Protocol = Protocol.TCP

    def __str__(self) -> str:
        return f"{self.published}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the Swarm. `address` is where other nodes reach it."""

    id: str
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Task:
    """A running task and where it can be reached.

    `address` is an IPv4 or IPv6 address inside `Snapshot.namespace`. `node` is the address of the node
    that runs it (empty where unknown). `port` overrides the service's target port; 0 does not.
    """

    id: str
    name: str
    address: str
    node: str = ""
    port: int = 0
    state: BackendState = BackendState.UP


@dataclass(frozen=True, slots=True)
class Service:
    """A service with its published ports and its tasks. `labels` are sorted pairs."""

    id: str
    name: str
    ports: tuple[Port, ...]
    tasks: tuple[Task, ...]
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a source knows at one instant.

    `namespace` is the path of the network namespace in which the tasks' addresses are reachable, empty
    for the agent's own; `namespace_id` its inode, so that a namespace that was replaced under the same
    path is another one. `problems` are sentences for the user about parts that had to be left out.
    """

    services: tuple[Service, ...] = ()
    nodes: tuple[Node, ...] = ()
    namespace: str = ""
    problems: tuple[str, ...] = ()
    namespace_id: int = 0


@dataclass(frozen=True, slots=True)
class Desired:
    """What only managers know: how services are meant to be, without tasks, and which tasks are to stop.

    `stopping` are ids of tasks that Swarm is about to stop: about two seconds later they get their SIGTERM.
    """

    services: tuple[Service, ...] = ()
    nodes: tuple[Node, ...] = ()
    stopping: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """This node's place in its Swarm, for the channel between agents.

    `root` is Docker's data directory, `managers` the addresses of the managers, `desired` what this node
    itself knows as a manager, None on a worker.
    """

    root: str = ""
    managers: tuple[str, ...] = ()
    desired: Desired | None = None


@dataclass(frozen=True, slots=True)
class PortStatus:
    """How one published port is served on this node, with the reason where it is not."""

    port: Port
    service: str
    state: PortState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Counters:
    """Connections and bytes since the start. `accepted == closed + open` holds whenever nothing moves."""

    accepted: int = 0
    closed: int = 0
    failed: int = 0  # reset because no backend could be reached
    failovers: int = 0  # attempts after the first
    received: int = 0  # bytes from clients
    sent: int = 0  # bytes to clients

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return self.accepted - self.closed


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What the source of tables says of itself. `problem` is empty when all is well."""

    kind: str  # "swarm" or "static"
    connected: bool
    problem: str = ""
    node: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """What the agent says of itself: one value for the status page, the metrics and the CLI."""

    version: str
    source: SourceStatus
    snapshot: Snapshot = field(default_factory=Snapshot)
    ports: tuple[PortStatus, ...] = ()
    counters: Counters = field(default_factory=Counters)
    problems: tuple[str, ...] = ()
    draining: bool = False  # the agent is ending: no new connections


def is_address(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
