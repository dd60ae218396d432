"""Docker's JSON becomes our nouns: the gossiped view, a manager's lists, a node's membership. Pure.

The engine is trusted to be an engine, not to be flawless: a piece that cannot be read is left out and
said so in a sentence, and only an answer that is not of its kind at all is an EngineError.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from meshlb import weights
from meshlb.errors import EngineError
from meshlb.model import BackendState, Desired, Node, Port, Protocol, Service, Snapshot, Task, is_address
from meshlb.policy import CLIENT_ADDRESS, LABEL_PREFIX, TRANSPARENT
from meshlb.text import shown
from meshlb.weights import Weights

_PORT = re.compile(r"Target: (\d{1,5}), Publish: (\d{1,5})", re.ASCII)
_ID = re.compile(rb'"ID": ?"(\w+)"', re.ASCII)

PORTS_STAY = 10.0  # seconds; a task in ten that alone has a port is missed by 40 looks once in 70 times
MOST_NAMED = 3  # addresses in a sentence
_UPDATING = ("updating", "rollback_started")
_JOBS = {"ReplicatedJob", "GlobalJob"}  # Swarm wants their tasks to be complete, not to run

NOBODY = Node("", "", "")


@dataclass(frozen=True, slots=True)
class Membership:
    """What `/info` says of this node: `state` is Swarm's LocalNodeState."""

    state: str
    error: str = ""
    node: Node = NOBODY
    cluster: str = ""
    manager: bool = False
    managers: tuple[str, ...] = ()  # addresses
    root: str = ""  # Docker's data directory


@dataclass(frozen=True, slots=True)
class View:
    """The ingress network as gossip knows it on this node; its ports have no protocol.

    `heard` are the addresses of the nodes whose own endpoints have arrived: gossip hands over a node's
    entries together, so of these nodes all tasks are known. `own` is this node's address as others see where
    its tasks are: another one than its own where it has an address for its data.
    """

    services: tuple[Service, ...] = ()
    peers: tuple[Node, ...] = ()
    heard: frozenset[str] = frozenset()
    ingress: frozenset[str] = frozenset()  # the nodes' own addresses in the network
    problems: tuple[str, ...] = ()
    own: str = ""
    others: tuple[tuple[str, tuple[Port, ...]], ...] = ()  # of services: ports that they had a moment ago


@dataclass(frozen=True, slots=True)
class Lists:
    """What only a manager knows: services by name, with protocols and labels but no tasks, and nodes."""

    services: Mapping[str, Service]
    nodes: tuple[Node, ...] = ()
    problems: tuple[str, ...] = ()
    updating: bool = False  # a rolling update is under way
    stopping: frozenset[str] = frozenset()  # ids of tasks that are about to be stopped
    carried: frozenset[str] = frozenset()  # names of removed services of which tasks are left
    jobs: frozenset[str] = frozenset()  # names of services whose tasks are to come to an end
    old: bool = False  # what gossip shows of ports is newer


def parse_membership(info: object) -> Membership:
    """This node's part in the Swarm, from `/info`."""
    swarm = _dict(_dict(info).get("Swarm"))
    state = _text(swarm.get("LocalNodeState"))
    if not state:
        raise EngineError("the engine's /info does not tell its Swarm state; is this a Docker Engine?")
    node = Node(_text(swarm.get("NodeID")), _text(_dict(info).get("Name")), _text(swarm.get("NodeAddr")))
    cluster = _text(_dict(swarm.get("Cluster")).get("ID"))
    managers = {_text(_dict(peer).get("Addr")) for peer in _list(swarm.get("RemoteManagers"))}
    return Membership(
        state,
        shown(_text(swarm.get("Error")), 500),
        node,
        cluster,
        swarm.get("ControlAvailable") is True,
        tuple(sorted(host for text in managers if is_address(host := _without_port(text)))),
        _text(_dict(info).get("DockerRootDir")),
    )


def _without_port(text: str) -> str:
    return text.rpartition(":")[0].strip("[]")


def find_ingress(networks: object) -> str:
    """The id of the ingress network, empty when there is none. Its name is the user's choice."""
    if not isinstance(networks, list):
        raise EngineError("the engine answered /networks with something that is not a list")
    found = (_text(_dict(network).get("Id")) for network in networks if _dict(network).get("Ingress") is True)
    return next((network for network in found if network), "")


def fingerprint(body: bytes) -> tuple[object, ...]:
    """A value that is equal for bodies that say the same: the engine lists tasks and peers in random order.

    The markers cannot occur inside of a JSON string, where their quotes would be escaped.
    """
    before, marker, rest = body.partition(b'"Peers":[')
    peers, bracket, after = rest.partition(b"]")
    names = frozenset(peers.strip(b"{}").split(b"},{"))
    return *_without_order(before), marker, names, bracket, *_without_order(after)


def _without_order(text: bytes) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    """What stands between the lists of tasks, in its order, and the tasks without theirs; nothing gets lost.

    A task's own name tells its service. One that does not end as all do keeps what follows it, order and all.
    """
    first, *found = text.split(b'{"Name":"')
    tasks = [each.partition(b"}}") for each in found]
    between = (end + rest for _, end, rest in tasks if rest != b",")
    return (first, *between), frozenset(task for task, _, _ in tasks)


def parse_view(network: object) -> View:
    """The verbose view of the ingress network."""
    if not isinstance(network, dict) or network.get("Ingress") is not True:
        raise EngineError("the engine's view of the ingress network is not one")
    found = network.get("Services") or {}
    if not isinstance(found, dict):
        raise EngineError("the engine's view of the ingress network has no readable services")
    problems: list[str] = []
    services = tuple(_service(name, found[name], problems) for name in sorted(found) if name)
    endpoints = _list(_dict(found.get("")).get("Tasks"))
    heard = frozenset(_host(endpoint) for endpoint in endpoints) - {""}
    hosts = (_text(_dict(endpoint).get("EndpointIP")) for endpoint in endpoints)
    ingress = frozenset(address for address in hosts if is_address(address) and ":" not in address)
    own = _own_host(network.get("Containers"), endpoints)
    return View(services, _peers(network.get("Peers")), heard, ingress, tuple(problems), own)


def _own_host(containers: object, endpoints: Iterable[object]) -> str:
    """Where gossip has this node's own endpoint; empty while it has none."""
    own = _text(_dict(_dict(containers).get("ingress-sbox")).get("EndpointID"))
    found = (endpoint for endpoint in endpoints if own and _dict(endpoint).get("EndpointID") == own)
    return next((_host(endpoint) for endpoint in found), "")


def renamed(view: View, addresses: Mapping[str, str]) -> View:
    """The view with the nodes' own addresses, where gossip has those for their data (`--data-path-addr`)."""
    if not addresses or addresses.keys().isdisjoint(view.heard | set(hosts(view).values())):
        return view
    services = tuple(_renamed(service, addresses) for service in view.services)
    return replace(view, services=services, heard=frozenset(addresses.get(node, node) for node in view.heard))


def unnamed(view: View, own: str) -> tuple[str, ...]:
    """A sentence about addresses where tasks run that are no node's own."""
    known = {own, "", *(peer.address for peer in view.peers)}
    found = sorted(set(hosts(view).values()) - known)
    if not found:
        return ()
    named = ", ".join(found[:MOST_NAMED])
    text = (
        "nodes of this Swarm have addresses for their data alone (--data-path-addr), and nobody tells whose "
        f"{named} is: run meshlb-agent of this release on every node"
    )
    return (text,)


def _renamed(service: Service, addresses: Mapping[str, str]) -> Service:
    tasks = (replace(task, node=addresses.get(task.node, task.node)) for task in service.tasks)
    return replace(service, tasks=tuple(tasks))


def _service(name: str, found: object, problems: list[str]) -> Service:
    ports = {port for text in _list(_dict(found).get("Ports")) if (port := _port(name, text, problems))}
    tasks = (_task(name, task, problems) for task in _list(_dict(found).get("Tasks")))
    ordered = sorted((task for task in tasks if task), key=lambda task: (task.name, task.address))
    return Service("", name, tuple(sorted(ports, key=_by_number)), tuple(ordered))


def _port(service: str, text: object, problems: list[str]) -> Port | None:
    match = _PORT.fullmatch(_text(text))
    target, published = (int(match[1]), int(match[2])) if match else (0, 0)
    if match and published == 0:
        return None  # not published
    if not (_is_port(target) and _is_port(published)):
        problems.append(f'service {shown(service)}: cannot read its port "{shown(text)}"; left out')
        return None
    return Port(published, target)


def _task(service: str, found: object, problems: list[str]) -> Task | None:
    name, address = _text(_dict(found).get("Name")), _text(_dict(found).get("EndpointIP"))
    if not is_address(address):
        problems.append(
            f"service {shown(service)}: task {shown(name) or '?'} has no usable address "
            f'("{shown(address)}"); left out'
        )
        return None
    return Task(name.rpartition(".")[2], name, address, _host(found))


def showing(services: Mapping[str, Service]) -> frozenset[str]:
    """The names of services of which a port is to show clients' own addresses."""
    return frozenset(
        name
        for name, service in services.items()
        if any(key.endswith(CLIENT_ADDRESS) and text == TRANSPARENT for key, text in service.labels)
    )


def hosts(view: View) -> dict[str, str]:
    """The address of the node that runs a task, by the task's id."""
    return {task.id: task.node for service in view.services for task in service.tasks if task.node}


def _host(endpoint: object) -> str:
    return _text(_dict(_dict(endpoint).get("Info")).get("Host IP"))


def _peers(found: object) -> tuple[Node, ...]:
    nodes = {(_text(_dict(peer).get("Name")), _text(_dict(peer).get("IP"))) for peer in _list(found)}
    return tuple(Node("", name, address) for name, address in sorted(nodes) if is_address(address))


def parse_lists(services: object, nodes: object) -> Lists:
    """A manager's `/services` and `/nodes`. Only ports of publish mode `ingress` are the mesh's."""
    if not (isinstance(services, list) and isinstance(nodes, list)):
        raise EngineError("the engine answered /services or /nodes with something that is not a list")
    problems: list[str] = []
    listed = (_listed_service(service, problems) for service in services)
    return Lists(
        {service.name: service for service in listed if service.name},
        tuple(_listed_node(node) for node in sorted(nodes, key=_by_readiness)),
        tuple(sorted(problems)),
        any(_dict(_dict(service).get("UpdateStatus")).get("State") in _UPDATING for service in services),
        jobs=frozenset(name for service in services if (name := _job(service))),
    )


def _job(service: object) -> str:
    """The name of a service that is a job; empty for others."""
    spec = _dict(_dict(service).get("Spec"))
    return _text(spec.get("Name")) if _dict(spec.get("Mode")).keys() & _JOBS else ""


def parse_wanted(tasks: object) -> frozenset[str]:
    """The ids of the tasks that Swarm wants to run, from `/tasks` filtered by that."""
    if not isinstance(tasks, list):
        raise EngineError("the engine answered /tasks with something that is not a list")
    return frozenset(_text(_dict(task).get("ID")) for task in tasks)


def find_wanted(body: bytes) -> frozenset[str] | None:
    """The same from the bytes of the answer, where that is safe: reading it costs four times as much.

    The ids of networks and the like are among them, which do no harm. None where braces do not pair: the
    answer may have been cut off, and tasks that it lacks would be taken for such as stop.
    """
    text = body.strip()
    is_whole = text.startswith(b"[") and text.endswith(b"]") and text.count(b"{") == text.count(b"}")
    ids = _ID.findall(text) if is_whole else []
    return frozenset(found.decode() for found in ids) if ids or text == b"[]" else None


def stopping(view: View, lists: Lists, wanted: frozenset[str]) -> frozenset[str]:
    """Tasks that still run but are not wanted any more.

    The engine lists a task in its view until its container has died, though Swarm has decided some three
    seconds earlier, and sends SIGTERM two seconds after taking it out of its own mesh (seen on 20.10).
    """
    names = lists.services.keys() - lists.jobs
    shown = (task for service in view.services if service.name in names for task in service.tasks)
    return frozenset(task.id for task in shown) - wanted


def to_desired(lists: Lists, old: bool = False) -> Desired:
    """A manager's lists, for others."""
    services = tuple(lists.services[name] for name in sorted(lists.services))
    return Desired(services, lists.nodes, lists.stopping, lists.problems, old)


def from_desired(desired: Desired) -> Lists:
    """What another agent knows as a manager."""
    services = {service.name: service for service in desired.services}
    return Lists(services, desired.nodes, desired.problems, stopping=desired.stopping, old=desired.old)


def _listed_service(found: object, problems: list[str]) -> Service:
    spec = _dict(_dict(found).get("Spec"))
    name = _text(spec.get("Name"))
    published = _list(_dict(_dict(found).get("Endpoint")).get("Ports"))
    ports = {
        port
        for entry in published
        if _dict(entry).get("PublishMode") == "ingress"
        and (port := _listed_port(name, _dict(entry), problems))
    }
    labels = tuple(sorted((key, _text(value)) for key, value in _dict(spec.get("Labels")).items()))
    return Service(_text(_dict(found).get("ID")), name, tuple(sorted(ports, key=_by_number)), (), labels)


def _listed_port(service: str, entry: dict[str, object], problems: list[str]) -> Port | None:
    published, target, protocol = entry.get("PublishedPort"), entry.get("TargetPort"), entry.get("Protocol")
    if protocol == "sctp":
        problems.append(
            f"service {shown(service)}: port {shown(published)}/sctp is not served: "
            "meshlb carries tcp and udp"
        )
        return None
    if not (_is_port(published) and _is_port(target) and protocol in tuple(Protocol)):
        problems.append(
            f"service {shown(service)}: cannot read its port "
            f'"{shown(published)}:{shown(target)}/{shown(protocol)}"; left out'
        )
        return None
    return Port(int(str(published)), int(str(target)), Protocol(str(protocol)))


def _by_readiness(node: object) -> tuple[bool, str]:
    """Nodes that are down first: one that left and joined again is listed twice, and the later entry wins."""
    return _dict(_dict(node).get("Status")).get("State") == "ready", _text(_dict(node).get("ID"))


def _listed_node(found: object) -> Node:
    node = _dict(found)
    address = _text(_dict(node.get("Status")).get("Addr"))
    manager = _text(_dict(node.get("ManagerStatus")).get("Addr"))
    manager = _without_port(manager)
    if manager and not _is_reachable(address):
        address = manager  # a manager that listens on every address reports 0.0.0.0 as its own
    return Node(
        _text(node.get("ID")), _text(_dict(node.get("Description")).get("Hostname")), address, _labels(node)
    )


def _labels(node: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """The mesh's own; others are nobody's business."""
    labels = _dict(_dict(node.get("Spec")).get("Labels"))
    return tuple(sorted((key, _text(value)) for key, value in labels.items() if key.startswith(LABEL_PREFIX)))


def carry_lists(old: Lists | None, new: Lists, view: View) -> Lists:
    """`new`, and what `old` knew of services that are gone from the list while gossip still has their tasks.

    Else a removed service's UDP port would turn into a TCP port for its last seconds. Ports that another
    service has been given meanwhile are that one's.
    """
    if old is None:
        return new
    shown = {service.name for service in view.services}
    gone = {name: found for name, found in old.services.items() if name in shown and name not in new.services}
    if not gone:
        return new
    taken = {port.key for service in new.services.values() for port in service.ports}
    kept = {name: _without(found, taken) for name, found in gone.items()}
    return replace(new, services={**new.services, **kept}, carried=frozenset(kept))


def _without(service: Service, taken: Collection[tuple[int, Protocol]]) -> Service:
    """A service without the ports that others have now."""
    return replace(service, ports=tuple(port for port in service.ports if port.key not in taken))


class _Shown(NamedTuple):
    """When a published number was shown to lead to certain targets."""

    first: float
    last: float


class Ports:
    """Remembers services' ports for a while, where only gossip tells them.

    The view shows the ports of one task of the service, whichever comes first: while an update adds or
    removes a port they come and go with every look, and while it changes a target now the old one is shown,
    now the new one. Of targets the newest counts, which is the one that was last to be shown at all; the
    view's `others` are the rest. And a service whose only task is being replaced is not shown at all.
    """

    def __init__(self) -> None:
        # By services' names and published numbers: what they led to, all that one look showed together.
        self._seen: dict[str, dict[int, dict[frozenset[int], _Shown]]] = {}
        self._last = self._told = View()
        self._looked = self._until = 0.0

    def remember(self, view: View, now: float) -> View:
        """The view with every port that was seen in the last seconds, unless another service has it now."""
        if view is not self._last or now >= self._until:
            self._note(self._last, self._looked)
            self._forget(view, now)
            self._note(view, now)
            self._told = self._filled(view)
            every = (
                shown.last for found in self._seen.values() for at in found.values() for shown in at.values()
            )
            self._until = min(every, default=now) + PORTS_STAY
        self._last, self._looked = view, now
        return self._told

    def _note(self, view: View, now: float) -> None:
        for service in view.services:
            for number, targets in _by_published(service.ports).items():
                found = self._seen.setdefault(service.name, {}).setdefault(number, {})
                found[targets] = _Shown(found[targets].first if targets in found else now, now)

    def _forget(self, view: View, now: float) -> None:
        """Forget what is over, and numbers that are another service's now."""
        shown = {(service.name, port.published) for service in view.services for port in service.ports}
        taken = {number for _, number in shown}
        for name, numbers in self._seen.items():
            for number, found in numbers.items():
                lost = number in taken and (name, number) not in shown
                numbers[number] = (
                    {}
                    if lost
                    else {targets: at for targets, at in found.items() if now - at.last < PORTS_STAY}
                )
        alive = {name: {at: each for at, each in found.items() if each} for name, found in self._seen.items()}
        self._seen = {name: numbers for name, numbers in alive.items() if numbers}

    def _filled(self, view: View) -> View:
        services, others = {service.name: service for service in view.services}, []
        for name, numbers in self._seen.items():
            newest = {
                number: max(found, key=lambda each: found[each].first) for number, found in numbers.items()
            }
            ports = _sorted(newest)
            service = services.get(name) or Service("", name, (), ())
            if service.ports != ports:
                services[name] = replace(service, ports=ports)
            rest = {number: frozenset().union(*found) - newest[number] for number, found in numbers.items()}
            if any(rest.values()):
                others.append((name, _sorted(rest)))
        return replace(
            view, services=tuple(services[name] for name in sorted(services)), others=tuple(sorted(others))
        )


def _by_published(ports: Iterable[Port]) -> dict[int, frozenset[int]]:
    """What the numbers lead to."""
    found: dict[int, set[int]] = {}
    for port in ports:
        found.setdefault(port.published, set()).add(port.target)
    return {number: frozenset(targets) for number, targets in found.items()}


def _sorted(targets: Mapping[int, Iterable[int]]) -> tuple[Port, ...]:
    """The ports that lead so, in order."""
    return tuple(Port(number, target) for number in sorted(targets) for target in sorted(targets[number]))


class Targets:
    """Remembers what tasks were started with, where their service leads its ports elsewhere since.

    Swarm replaces such tasks one by one; until then they listen where they did. A task that was seen before
    the change may listen at either: whoever is told late of the change has seen new ones, too. Tasks that
    were there from the first may have been started before anything that is remembered. Gossip shows the
    ports of one task of a service, now of this one, now of that one, so it tells in time where they listen.
    """

    def __init__(self) -> None:
        self._ports: dict[str, dict[tuple[int, Protocol], Port]] = {}  # by services' names
        self._tasks: dict[str, tuple[Port, ...]] = {}  # by tasks' ids
        self._unsure: frozenset[str] | None = None  # the ids of the tasks that were there from the first

    def remember(self, services: Collection[Service], view: View) -> tuple[Service, ...]:
        """The services, with what has been different when their tasks were first seen; `view` is gossip's."""
        ids = frozenset(task.id for service in services for task in service.tasks)
        if ids:
            self._unsure = ids if self._unsure is None else self._unsure & ids
        seen = {service.name: service.ports for service in view.services}
        for name, ports in view.others:
            seen[name] = (*seen.get(name, ()), *ports)
        before, self._ports, self._tasks = (self._ports, self._tasks), {}, {}
        return tuple(self._of(service, seen.get(service.name, ()), *before) for service in services)

    def _of(
        self,
        service: Service,
        seen: tuple[Port, ...],
        ports: Mapping[str, Mapping[tuple[int, Protocol], Port]],
        tasks: Mapping[str, tuple[Port, ...]],
    ) -> Service:
        now = self._ports[service.name] = {port.key: port for port in service.ports}
        was = ports.get(service.name, {})
        moved = tuple(was[key] for key, port in now.items() if key in was and was[key] != port)
        of_task = {task.id: (*tasks[task.id], *moved) if task.id in tasks else () for task in service.tasks}
        elsewhere = _elsewhere(service.ports, seen)
        if elsewhere:
            of_task |= {
                name: (*of_task[name], *elsewhere) for name in of_task.keys() & (self._unsure or frozenset())
            }
        former = {
            name: tuple(port for port in dict.fromkeys(found) if now.get(port.key) != port)
            for name, found in of_task.items()
        }
        self._tasks |= former
        if not service.id and elsewhere:  # no manager tells which of them is the service's
            former = {name: tuple(dict.fromkeys((*found, *elsewhere))) for name, found in former.items()}
        if not any(former.values()):
            return service
        return replace(service, tasks=tuple(replace(task, former=former[task.id]) for task in service.tasks))


def _elsewhere(ports: Iterable[Port], seen: Iterable[Port]) -> tuple[Port, ...]:
    """The ports as gossip has seen them, where none of their number leads there; gossip has no protocols."""
    led = {(port.published, port.target) for port in ports}
    other = [port for port in seen if (port.published, port.target) not in led]
    return tuple(
        replace(port, target=one.target) for one in other for port in ports if port.published == one.published
    )


def carry_tasks(old: View, new: View, own: str, lists: Lists | None) -> View:
    """`new`, and the tasks of `old` on nodes that gossip has not heard of yet.

    An engine that has just started knows its own tasks at once and the others up to 37 s later (seen with
    the only manager of three nodes). Until then the last known ones are the best there is. `own` is this
    node's address, about which the engine is right from the start, as a manager's lists are about what
    exists.
    """
    current = {service.name: service for service in new.services}
    for service in old.services:
        lost = tuple(task for task in service.tasks if task.node not in new.heard | {own, ""})
        if lists and not lists.old and service.name not in lists.services:
            continue
        known = current.get(service.name, replace(service, tasks=()))
        ids = {task.id for task in known.tasks}
        tasks = (*known.tasks, *(task for task in lost if task.id not in ids))
        if tasks:
            current[service.name] = replace(
                known, tasks=tuple(sorted(tasks, key=lambda task: (task.name, task.address)))
            )
    peers = {peer.address: peer for peer in (*old.peers, *new.peers)}
    services = tuple(current[name] for name in sorted(current))
    return replace(new, services=services, peers=tuple(peers[address] for address in sorted(peers)))


def snapshot(
    view: View,
    lists: Lists | None,
    own: Node,
    marks: Mapping[str, BackendState],
    namespace: tuple[str, int],
) -> Snapshot:
    """All together: what gossip says, refined by a manager's lists and by what local containers do."""
    names = {service.name: service for service in view.services}
    listed = (_as_shown(lists.services, view) if lists.old else lists.services) if lists else {}
    leaving = dict.fromkeys(lists.stopping if lists else (), BackendState.DRAINING)
    states = {**leaving, **marks}
    shares = weights.of_nodes(lists.nodes if lists else ())
    services = (
        _merge(names.get(name), listed.get(name), states, shares)
        for name in sorted(names.keys() | listed.keys())
    )
    nodes = _nodes(view.peers, lists.nodes if lists else (), own)
    return Snapshot(
        tuple(service for service in services if service.ports),
        nodes,
        namespace[0],
        view.problems + (lists.problems if lists else ()) + shares.problems,
        namespace[1],
        own.address,
        BackendState.DOWN,  # a task stays in the view until its container has died
        living=frozenset(
            task.id
            for service in view.services
            for task in service.tasks
            if states.get(task.id) is not BackendState.DOWN
        ),
        unseen=_unseen(nodes, lists.nodes if lists else ()),
    )


def _as_shown(listed: Mapping[str, Service], view: View) -> dict[str, Service]:
    """What old lists know, with the ports that gossip shows: it hears of changes without any manager.

    It shows no service without tasks. So one that it does not show has its ports still, but for those that
    others have now.
    """
    shown = {
        service.name: _led_as(listed[service.name], service.ports)
        for service in view.services
        if service.name in listed and service.ports
    }
    now = (shown.get(service.name, service) for service in view.services)
    taken = {port.key for service in now for port in service.ports}
    return {name: shown.get(name) or _without(service, taken) for name, service in listed.items()}


def _led_as(listed: Service, shown: Iterable[Port]) -> Service:
    """The service with the ports that gossip shows, in the protocols that are known of their numbers."""
    targets: dict[int, set[int]] = {}
    for port in shown:
        targets.setdefault(port.published, set()).add(port.target)
    ports = {port for number, found in targets.items() for port in _of_number(number, found, listed.ports)}
    return replace(listed, ports=tuple(sorted(ports, key=_by_number)))


def _of_number(number: int, targets: set[int], listed: Iterable[Port]) -> list[Port]:
    """The ports of this number that lead to these targets. A target that is not listed is the newer one."""
    known = [port for port in listed if port.published == number]
    if not known:
        return [Port(number, target) for target in targets]
    new = targets - {port.target for port in known}
    if not new:
        return [port for port in known if port.target in targets]
    moved = known[:1] if len(known) == 1 else [port for port in known if port.target not in targets]
    return [replace(port, target=max(new)) if port in moved else port for port in known]


def _merge(
    seen: Service | None, listed: Service | None, marks: Mapping[str, BackendState], shares: Weights
) -> Service:
    base = listed or seen or Service("", "", (), ())
    tasks = seen.tasks if seen else ()
    if shares.found or not marks.keys().isdisjoint(task.id for task in tasks):
        tasks = tuple(
            replace(task, state=marks.get(task.id, task.state), weight=shares.of(task.node, base.name))
            for task in tasks
        )
    return replace(base, tasks=tasks)


def _nodes(peers: Iterable[Node], listed: Iterable[Node], own: Node) -> tuple[Node, ...]:
    """Gossip's peers, under the names that the managers and this node itself know."""
    known = {node.address: node for node in (own, *listed) if _is_reachable(node.address)}
    nodes = {peer.address: known.get(peer.address, peer) for peer in peers}
    if own.address:
        nodes.setdefault(own.address, known.get(own.address, own))
    return tuple(nodes[address] for address in sorted(nodes))


def _unseen(nodes: Iterable[Node], listed: Iterable[Node]) -> tuple[Node, ...]:
    """Those that managers list and gossip does not show: they may have left, or be cut off, or dead."""
    seen = {node.address for node in nodes}
    found = {node.address: node for node in listed if _is_reachable(node.address)}
    return tuple(found[address] for address in sorted(found.keys() - seen))


def _by_number(port: Port) -> tuple[int, str, int]:
    return port.published, port.protocol, port.target


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def _is_reachable(text: str) -> bool:
    return is_address(text) and not ipaddress.ip_address(text).is_unspecified


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
