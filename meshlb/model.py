"""The nouns of the mesh, as frozen values: what a source reports and what the plane serves.

A source (Swarm's engine, or a static file) gives whole `Snapshot`s. Everything here is immutable and
compares by value, so "did anything change" is `!=`.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


def endpoint(address: str, port: int) -> str:
    """`192.0.2.7:80`, `[2001:db8::7]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Protocol(StrEnum):
    """The transport of a published port."""

    TCP = "tcp"
    UDP = "udp"


class BackendState(StrEnum):
    """`up` takes new connections, `draining` only keeps those it has for a while, `down` has none.

    `suspected` is on a node that has fallen silent: it keeps those it has, and takes new ones only while
    none is up. `drained` and `paused` an operator has it: it never takes new ones, and keeps those it has;
    when drained, for a while.
    """

    UP = "up"
    SUSPECTED = "suspected"
    DRAINING = "draining"
    DRAINED = "drained"
    PAUSED = "paused"
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

    @property
    def key(self) -> tuple[int, Protocol]:
        """What clients know of it: a number can be published once for each protocol."""
        return self.published, self.protocol


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the Swarm. `address` is where others reach it, `labels` the mesh's own as sorted pairs."""

    id: str
    name: str
    address: str
    labels: tuple[tuple[str, str], ...] = ()


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
    weight: int = 1  # its share of the port's connections, beside the others' weights
    prepared: bool = False  # its answers to clients' own addresses find their way back to this node
    former: tuple[Port, ...] = ()  # those of its service's ports that led elsewhere when it was started

    def targets(self, port: Port) -> tuple[int, ...]:
        """Where it listens for a published port, or may do so: one of them refuses then."""
        former = (one.target for one in self.former if one.key == port.key)
        return tuple(dict.fromkeys((self.port or port.target, *former)))


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
    `node` is the address of the node that this snapshot is for. `absent` is what a task is that was in an
    earlier snapshot and is not in this one: `down` where the source lists tasks until they have died.
    `masked` are networks of clients whose own address tasks must not see, `hindrances` by nodes' addresses
    what keeps tasks there from seeing them; that of this node itself keeps all. `living` are the ids of all
    tasks that are not down, those to which no port leads any more included. `unseen` are nodes of which the
    source does not know whether they are there. `pending` says that it is empty only because nothing is
    known yet.
    """

    services: tuple[Service, ...] = ()
    nodes: tuple[Node, ...] = ()
    namespace: str = ""
    problems: tuple[str, ...] = ()
    namespace_id: int = 0
    node: str = ""
    absent: BackendState = BackendState.DRAINING
    masked: tuple[str, ...] = ()
    hindrances: tuple[tuple[str, str], ...] = ()
    living: frozenset[str] = frozenset()
    unseen: tuple[Node, ...] = ()
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Desired:
    """What only managers know: how services are meant to be, without tasks, and which tasks are to stop.

    `stopping` are ids of tasks that Swarm is about to stop: some three seconds later they get their SIGTERM.
    It is `old` where managers may have decided otherwise since.
    """

    services: tuple[Service, ...] = ()
    nodes: tuple[Node, ...] = ()
    stopping: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    old: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """The tasks of one node whose answers to clients' own addresses find back to any of these ingress hosts.

    `networks` are those that the tasks are in: clients from there could be taken for neighbours, or for the
    task itself. `problem` says why others of its tasks are not prepared; empty when all is well.
    """

    tasks: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Face:
    """This node's own address in the ingress network, in the network namespace with this inode.

    Empty while its sockets there would not get what tasks answer to clients' own addresses; `problem` says
    why, where that is known.
    """

    address: str = ""
    namespace_id: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be prepared on a node, so that tasks see clients' own addresses.

    `used` is whether any port of the mesh is to show them. `tasks` are the addresses of the node's own tasks
    that are to see them, by the tasks' ids; `hosts` all nodes' addresses in the ingress network, and
    `namespace` the file of this node's namespace there, whose inode is `namespace_id`.
    """

    used: bool = False
    tasks: tuple[tuple[str, str], ...] = ()
    hosts: frozenset[str] = frozenset()
    namespace: str = ""
    namespace_id: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """This node's place in its Swarm, for the channel between agents.

    `root` is Docker's data directory, `address` this node's own, `managers` and `peers` those of the managers
    and of all nodes, `desired` what this node itself knows as a manager, None on a worker. `states` are those
    of its own tasks that are not simply up, `hosts` the address of the node that runs a task, by the task's
    id. `overlay` is the file of the namespace in which the ingress network's tunnels end, `lost` are the
    addresses of nodes that gossip has ceased to show. `wanted` is about clients' own addresses, None while
    services' policies are not known. `paths` are the addresses that nodes have for their data, by their own.
    """

    root: str = ""
    address: str = ""
    managers: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    desired: Desired | None = None
    states: Mapping[str, BackendState] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    overlay: str = ""
    lost: frozenset[str] = frozenset()
    wanted: Wanted | None = None
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remote:
    """What the channel between agents knows of other nodes, by their addresses.

    `tasks` are the states of a node's tasks that are not simply up, as its own agent tells them. A node that
    is `suspected` has fallen silent; one that is `dead` has been silent for long, and is suspected as well.
    `prepared` is what nodes have prepared, this one included, and `face` how this node shows clients' own
    addresses. `paths` are nodes' addresses by those that they have for their data.
    """

    tasks: Mapping[str, Mapping[str, BackendState]] = field(default_factory=dict)
    suspected: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()
    prepared: Mapping[str, Prepared] = field(default_factory=dict)
    face: Face = field(default_factory=Face)
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """What the channel between agents says of itself. `problem` is empty when all is well."""

    peers: int = 0  # other nodes that are known
    connected: int = 0  # those whose agents are heard
    suspected: tuple[str, ...] = ()  # addresses of nodes that are silent
    dead: tuple[str, ...] = ()  # those of them that have been for long
    heard: int = 0  # states taken
    stale: int = 0  # states that were not newer
    refused: int = 0  # connections that were not let in or hung up on, and claims about others' tasks
    problem: str = ""
    clocks: Mapping[str, int] = field(default_factory=dict)  # seconds that nodes' clocks are ahead of ours
    nodes: tuple[str, ...] = ()  # addresses of the other nodes


@dataclass(frozen=True, slots=True)
class PortStatus:
    """How one published port is served on this node, with the reason where it is not."""

    port: Port
    service: str
    state: PortState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long things took. Bucket i counts those up to 2**(i - 14) seconds, the last one all others."""

    total: int  # microseconds
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Clients that were turned away, by reason."""

    no_backend: int  # none could be reached
    full: int  # max-conn, and no place in the queue, or too long in it
    rate: int
    denied: int  # by allow or deny
    header: int  # a PROXY header that is malformed, missing, late, or from who may not send one
    resources: int  # this machine had run out of something


@dataclass(frozen=True, slots=True)
class PortCounts:
    """What has been counted of one published port on this node."""

    accepted: int
    closed: int
    failovers: int
    waited: int  # for a backend, or for a place at one
    received: int
    sent: int
    dropped: int  # datagrams
    masked: int  # attempts that showed a node's address though the client's own was wanted
    refused: Refused
    connect: Histogram  # from accepting the client to a backend's answer
    first_byte: Histogram  # from accepting the client to its first byte
    duration: Histogram


@dataclass(frozen=True, slots=True)
class BackendCounts:
    """What has been counted of one backend on this node."""

    chosen: int  # attempts begun
    ended: int  # attempts failed, and connections over
    connected: int
    failed: int
    received: int
    sent: int
    sampled: int  # connections that the kernel was asked about
    rtt: int  # microseconds, summed over them
    retransmitted: int  # segments, summed over them
    connect: Histogram  # one attempt
    first_byte: Histogram
    duration: Histogram
    active: int
    aside: bool  # it failed too often in a row; single connections probe it


@dataclass(frozen=True, slots=True)
class Counters:
    """Connections and bytes since the start. `accepted == closed + open` holds whenever nothing moves."""

    accepted: int = 0
    closed: int = 0
    failed: int = 0  # reset because no backend could be reached, or for another of the reasons in `refused`
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
    channel: ChannelStatus | None = None  # between agents, where there is one


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
    table: int = 0  # tables that have been served so far
    table_changed: float = 0.0  # seconds since 1970: when the last one came
    unlogged: int = 0  # connections that the access log lacks


def is_address(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address that means the same everywhere: without a zone."""
    try:
        packed(text)
    except ValueError:
        return False
    return True


def packed(address: str) -> bytes:
    """Its 4 or 16 bytes, as the kernel has them; ValueError where it is none. Large tables have thousands."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError:
        raise ValueError(f"{address!r} is not an address") from None
