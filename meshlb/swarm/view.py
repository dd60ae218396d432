"""Docker's JSON becomes our nouns: the gossiped view of the ingress network, a node's membership. Pure.

The engine is trusted to be an engine, not to be flawless: a piece that cannot be read is left out and
said so in a sentence, and only an answer that is not of its kind at all is an EngineError.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from meshlb.errors import EngineError
from meshlb.model import Node, Port, Service, Task, is_address
from meshlb.swarm.answers import dict_in, list_in, text_in
from meshlb.text import shown

_PORT = re.compile(r"Target: (\d{1,5}), Publish: (\d{1,5})", re.ASCII)

MOST_NAMED = 3  # addresses in a sentence
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


def parse_membership(info: object) -> Membership:
    """This node's part in the Swarm, from `/info`."""
    swarm = dict_in(dict_in(info).get("Swarm"))
    state = text_in(swarm.get("LocalNodeState"))
    if not state:
        raise EngineError("the engine's /info does not tell its Swarm state; is this a Docker Engine?")
    node = Node(
        text_in(swarm.get("NodeID")), text_in(dict_in(info).get("Name")), text_in(swarm.get("NodeAddr"))
    )
    cluster = text_in(dict_in(swarm.get("Cluster")).get("ID"))
    managers = {text_in(dict_in(peer).get("Addr")) for peer in list_in(swarm.get("RemoteManagers"))}
    return Membership(
        state,
        shown(text_in(swarm.get("Error")), 500),
        node,
        cluster,
        swarm.get("ControlAvailable") is True,
        tuple(sorted(host for text in managers if is_address(host := without_port(text)))),
        text_in(dict_in(info).get("DockerRootDir")),
    )


def without_port(text: str) -> str:
    return text.rpartition(":")[0].strip("[]")


def find_ingress(networks: object) -> str:
    """The id of the ingress network, empty when there is none. Its name is the user's choice."""
    if not isinstance(networks, list):
        raise EngineError("the engine answered /networks with something that is not a list")
    found = (
        text_in(dict_in(network).get("Id")) for network in networks if dict_in(network).get("Ingress") is True
    )
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
    endpoints = list_in(dict_in(found.get("")).get("Tasks"))
    heard = frozenset(_host(endpoint) for endpoint in endpoints) - {""}
    hosts = (text_in(dict_in(endpoint).get("EndpointIP")) for endpoint in endpoints)
    ingress = frozenset(address for address in hosts if is_address(address) and ":" not in address)
    own = _own_host(network.get("Containers"), endpoints)
    return View(services, _peers(network.get("Peers")), heard, ingress, tuple(problems), own)


def _own_host(containers: object, endpoints: Iterable[object]) -> str:
    """Where gossip has this node's own endpoint; empty while it has none."""
    own = text_in(dict_in(dict_in(containers).get("ingress-sbox")).get("EndpointID"))
    found = (endpoint for endpoint in endpoints if own and dict_in(endpoint).get("EndpointID") == own)
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
    ports = {port for text in list_in(dict_in(found).get("Ports")) if (port := _port(name, text, problems))}
    tasks = (_task(name, task, problems) for task in list_in(dict_in(found).get("Tasks")))
    ordered = sorted((task for task in tasks if task), key=lambda task: (task.name, task.address))
    return Service("", name, tuple(sorted(ports, key=by_number)), tuple(ordered))


def _port(service: str, text: object, problems: list[str]) -> Port | None:
    match = _PORT.fullmatch(text_in(text))
    target, published = (int(match[1]), int(match[2])) if match else (0, 0)
    if match and published == 0:
        return None  # not published
    if not (is_port(target) and is_port(published)):
        problems.append(f'service {shown(service)}: cannot read its port "{shown(text)}"; left out')
        return None
    return Port(published, target)


def _task(service: str, found: object, problems: list[str]) -> Task | None:
    name, address = text_in(dict_in(found).get("Name")), text_in(dict_in(found).get("EndpointIP"))
    if not is_address(address):
        problems.append(
            f"service {shown(service)}: task {shown(name) or '?'} has no usable address "
            f'("{shown(address)}"); left out'
        )
        return None
    return Task(name.rpartition(".")[2], name, address, _host(found))


def hosts(view: View) -> dict[str, str]:
    """The address of the node that runs a task, by the task's id."""
    return {task.id: task.node for service in view.services for task in service.tasks if task.node}


def _host(endpoint: object) -> str:
    return text_in(dict_in(dict_in(endpoint).get("Info")).get("Host IP"))


def _peers(found: object) -> tuple[Node, ...]:
    nodes = {
        (text_in(dict_in(peer).get("Name")), text_in(dict_in(peer).get("IP"))) for peer in list_in(found)
    }
    return tuple(Node("", name, address) for name, address in sorted(nodes) if is_address(address))


def by_number(port: Port) -> tuple[int, str, int]:
    return port.published, port.protocol, port.target


def by_published(ports: Iterable[Port]) -> dict[int, frozenset[int]]:
    """The targets that each published number leads to."""
    found: dict[int, set[int]] = {}
    for port in ports:
        found.setdefault(port.published, set()).add(port.target)
    return {number: frozenset(targets) for number, targets in found.items()}


def is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def is_reachable(text: str) -> bool:
    return is_address(text) and not ipaddress.ip_address(text).is_unspecified
