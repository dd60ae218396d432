"""What agents say to each other, as text: whole states with their versions. Pure.

There are two kinds of message: a manager's `Desired`, and the states of a node's own tasks that are not
simply up. A message comes from a node with a certificate of the Swarm, and still nothing in it is believed
before it was checked: type, size and number of everything. Members that are not known are skipped, as agents
of two releases talk to each other while an upgrade goes through the nodes.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from meshlb.model import BackendState, Desired, Node, Port, Prepared, Protocol, Service, is_address
from meshlb.policy import LABEL_PREFIX, parse_network
from meshlb.text import printable

PATH = "/peers"  # where agents speak to each other
LOOKING = "meshlb.peers.v2"  # of the WebSocket, where the listener may ask to be shown what was counted
SUBPROTOCOL = "meshlb.peers.v1"  # the same without that
FORMER = "meshlb.desired.v1"  # of a release that takes nothing but managers' messages
MAX_BYTES = 4 << 20
MAX_SERVICES = 20_000
MAX_PORTS = 1_000  # of one service
MAX_LABELS = 1_000  # of one service or node
MAX_NODES = 10_000
MAX_STOPPING = 100_000
MAX_TASKS = 10_000  # of one node
MAX_PROBLEMS = 100
MAX_NETWORKS = 64  # that one node's tasks are in
MAX_NAME = 255  # characters of an id, a name, an address or a label's key
MAX_TEXT = 4_096  # characters of a label's value or a problem

DESIRED, TASKS = "desired", "tasks"
TOLD = {state.value: state for state in (BackendState.DRAINING, BackendState.DOWN)}  # of tasks

LANGUAGES = (LOOKING, SUBPROTOCOL, FORMER)  # another way of saying things gets another name

_MAX_COUNT = (1 << 53) - 1
_Item = TypeVar("_Item")


class MessageError(ValueError):
    """The message is not one of ours, in words that name the place."""


@dataclass(frozen=True, slots=True)
class Version:
    """`epoch` is random for each start of an agent, `count` grows with each state that it tells."""

    epoch: str
    count: int


@dataclass(frozen=True, slots=True)
class Message:
    """One state of one agent: what it knows as a manager, or the states of its own tasks; else None.

    `prepared` is None where it does not know yet: what was told before goes on. So is `data`, the address
    that the node has for its data, empty where it has none for that alone.
    """

    version: Version
    desired: Desired | None = None
    tasks: Mapping[str, BackendState] | None = None
    prepared: Prepared | None = None
    data: str | None = None

    @property
    def part(self) -> str:
        """The name of what it is a state of."""
        return DESIRED if self.desired is not None else TASKS


def encode(version: Version, desired: Desired) -> str:
    """The message as text. MessageError when it is more than a receiver takes.

    Of the labels only the mesh's own are told: Swarm does not show a service's labels to workers, and they
    often hold secrets. A service with more ports than a receiver takes is left out, and said so.
    """
    problems = (*untold(desired), *desired.problems)
    document: dict[str, object] = {
        "epoch": version.epoch,
        "count": version.count,
        "services": [_service_out(service) for service in desired.services if _is_small(service)],
        "nodes": [_node_out(node) for node in desired.nodes],
        "stopping": sorted(desired.stopping),
        "problems": [problem[:MAX_TEXT] for problem in problems[:MAX_PROBLEMS]],
    }
    if desired.old:
        document["old"] = True
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    decode(text)
    return text


def untold(desired: Desired) -> tuple[str, ...]:
    """Sentences about what is left out of the message."""
    return tuple(
        f"service {service.name}: it publishes {len(service.ports)} ports; workers are told labels and "
        f"protocols of services with up to {MAX_PORTS}; let another service publish some of them"
        for service in desired.services
        if not _is_small(service)
    )


def _is_small(service: Service) -> bool:
    return len(service.ports) <= MAX_PORTS


def encode_tasks(
    version: Version,
    tasks: Mapping[str, BackendState],
    prepared: Prepared | None = None,
    data: str | None = None,
) -> str:
    """The states of the sender's own tasks as text; of more than a receiver takes, the first.

    So it is with tasks that are `prepared`.
    """
    told = [(task, state.value) for task, state in sorted(tasks.items()) if state.value in TOLD]
    document: dict[str, object] = {
        "epoch": version.epoch,
        "count": version.count,
        "tasks": dict(told[:MAX_TASKS]),
    }
    if prepared is not None:
        document["prepared"] = prepared_out(prepared)
    if data is not None:
        document["data"] = data
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    decode(text)
    return text


def prepared_out(prepared: Prepared) -> dict[str, object]:
    """It as JSON has it. With more networks than a receiver takes, no task is prepared."""
    if len(prepared.networks) > MAX_NETWORKS:
        problem = f"its tasks are in {len(prepared.networks)} networks; {MAX_NETWORKS} are supported"
        prepared = Prepared(problem=problem)
    return {
        "tasks": sorted(prepared.tasks)[:MAX_TASKS],
        "hosts": sorted(prepared.hosts)[:MAX_NODES],
        "networks": sorted(prepared.networks),
        "problem": prepared.problem[:MAX_TEXT],
    }


def _service_out(service: Service) -> dict[str, object]:
    return {
        "id": service.id,
        "name": service.name,
        "ports": [
            {"published": port.published, "target": port.target, "protocol": port.protocol.value}
            for port in service.ports
        ],
        "labels": _labels_out(service.labels),
    }


def _node_out(node: Node) -> dict[str, object]:
    return {"id": node.id, "name": node.name, "address": node.address, "labels": _labels_out(node.labels)}


def _labels_out(labels: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return dict([pair for pair in labels if _is_told(*pair)][:MAX_LABELS])


def _is_told(key: str, value: str) -> bool:
    """A label too long to be of use to anyone must not keep the others from being told."""
    return key.startswith(LABEL_PREFIX) and len(key) <= MAX_NAME and len(value) <= MAX_TEXT


def decode(text: str) -> Message:
    """The message in `text`; MessageError for anything else, whatever it is."""
    _check_size(text)
    try:
        found = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except RecursionError:
        raise MessageError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise MessageError(f"it is not JSON: {error.msg} at {error.pos}") from None
    top = _members(found, "it")
    if ("services" in top) == (TASKS in top):
        raise MessageError("it has no services, or tasks, or it has both")
    if TASKS in top:
        prepared = prepared_in(top["prepared"]) if "prepared" in top else None
        return Message(_version(top), None, _tasks(top), prepared, _data(top) if "data" in top else None)
    return Message(_version(top), _desired(top))


def _check_size(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise MessageError("it is not valid Unicode") from None
    if size > MAX_BYTES:
        raise MessageError(f"it is {size} bytes long; {MAX_BYTES} are allowed")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MessageError("it has a member twice")
    return found


def _integer(text: str) -> int:
    if len(text) > 17:
        raise MessageError("it has a number that is too large")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise MessageError(f"it has a number that is not an integer ({text[:20]})")


def _version(top: dict[str, Any]) -> Version:
    epoch = _name(top, "epoch", "it")
    if not epoch:
        raise MessageError("it has an empty epoch")
    return Version(epoch, _number(top, "count", "it", _MAX_COUNT))


def _desired(top: dict[str, Any]) -> Desired:
    services = _items(top, "services", "it", MAX_SERVICES, _service)
    _check_unique([service.name for service in services], "services", "it")
    stopping = _items(top, "stopping", "it", MAX_STOPPING, lambda found: _text(found, "stopping", MAX_NAME))
    _check_unique(stopping, "stopping", "it")
    problems = _items(top, "problems", "it", MAX_PROBLEMS, lambda found: _text(found, "problems", MAX_TEXT))
    nodes = _items(top, "nodes", "it", MAX_NODES, _node)
    return Desired(services, nodes, frozenset(stopping), problems, _is_old(top))


def _is_old(top: dict[str, Any]) -> bool:
    """Agents of the release before do not tell it."""
    old = top.get("old", False)
    if not isinstance(old, bool):
        raise MessageError("it is old in a way that is neither true nor false")
    return old


def _tasks(top: dict[str, Any]) -> dict[str, BackendState]:
    """The states by the tasks' ids; a state that a later release may have is skipped."""
    found = _members(top[TASKS], "tasks")
    if len(found) > MAX_TASKS:
        raise MessageError(f"it has {len(found)} tasks; {MAX_TASKS} are allowed")
    told = {
        _text(task, "a task", MAX_NAME): _text(state, "a state", MAX_NAME) for task, state in found.items()
    }
    return {task: TOLD[state] for task, state in told.items() if state in TOLD}


def _data(top: dict[str, Any]) -> str:
    data = top["data"]
    if not (isinstance(data, str) and (data == "" or is_address(data))):
        raise MessageError("the address for its data is none")
    return data


def prepared_in(data: object) -> Prepared:
    """What `prepared_out` has given; MessageError for anything else."""
    found, where = _members(data, "prepared"), "prepared"
    return Prepared(
        frozenset(_items(found, "tasks", where, MAX_TASKS, lambda item: _text(item, "a task", MAX_NAME))),
        frozenset(_items(found, "hosts", where, MAX_NODES, lambda item: _text(item, "a host", MAX_NAME))),
        frozenset(_items(found, "networks", where, MAX_NETWORKS, _network)),
        printable(_text(found.get("problem", ""), "a problem", MAX_TEXT)),
    )


def _network(found: object) -> str:
    try:
        return parse_network(_text(found, "a network", MAX_NAME))
    except MessageError:
        raise
    except ValueError:
        raise MessageError("a network is none") from None


def _service(found: object) -> Service:
    members = _members(found, "a service")
    name = _name(members, "name", "a service")
    if not name:
        raise MessageError("a service has no name")
    ports = _items(members, "ports", "a service", MAX_PORTS, _port)
    _check_unique(ports, "ports", "a service")
    return Service(
        _name(members, "id", "a service"),
        name,
        ports,
        (),
        _labels(_member(members, "labels", "a service"), "a service"),
    )


def _labels(labels: object, place: str) -> tuple[tuple[str, str], ...]:
    found = _members(labels, "labels")
    if len(found) > MAX_LABELS:
        raise MessageError(f"{place} has {len(found)} labels; {MAX_LABELS} are allowed")
    return tuple(
        sorted(
            (_text(key, "a label", MAX_NAME), _text(value, "a label", MAX_TEXT))
            for key, value in found.items()
        )
    )


def _port(found: object) -> Port:
    members = _members(found, "a port")
    published, target = (_number(members, key, "a port", 65535) for key in ("published", "target"))
    protocol = _name(members, "protocol", "a port")
    if not (published and target and protocol in tuple(Protocol)):
        raise MessageError("a port has a number or a protocol that does not exist")
    return Port(published, target, Protocol(protocol))


def _node(found: object) -> Node:
    members = _members(found, "a node")
    id_, name, address = (_name(members, key, "a node") for key in ("id", "name", "address"))
    # Agents of the release before do not tell them.
    return Node(id_, name, address, _labels(members.get("labels", {}), "a node"))


def _members(found: object, place: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise MessageError(f"{place} is not an object")
    return found


def _member(members: dict[str, Any], key: str, place: str) -> Any:
    if key not in members:
        raise MessageError(f"{place} has no {key}")
    return members[key]


def _items(
    members: dict[str, Any], key: str, place: str, most: int, parse: Callable[[object], _Item]
) -> tuple[_Item, ...]:
    found = _member(members, key, place)
    if not isinstance(found, list):
        raise MessageError(f"{place} has {key} that are not a list")
    if len(found) > most:
        raise MessageError(f"{place} has {len(found)} {key}; {most} are allowed")
    return tuple(parse(item) for item in found)


def _number(members: dict[str, Any], key: str, place: str, most: int) -> int:
    found = _member(members, key, place)
    if type(found) is not int or not 0 <= found <= most:  # a bool is an int to isinstance()
        raise MessageError(f"{place} has a {key} that is not a number from 0 to {most}")
    return found


def _name(members: dict[str, Any], key: str, place: str) -> str:
    return _text(_member(members, key, place), f"the {key} of {place}", MAX_NAME)


def _text(found: object, place: str, most: int) -> str:
    if not isinstance(found, str):
        raise MessageError(f"{place} is not text")
    if len(found) > most:
        raise MessageError(f"{place} is {len(found)} characters long; {most} are allowed")
    if not found.isascii() and any("\ud800" <= char <= "\udfff" for char in found):
        raise MessageError(f"{place} is not valid Unicode")  # half of a pair, written as an escape
    return found


def _check_unique(found: tuple[object, ...] | list[str], key: str, place: str) -> None:
    if len(set(found)) != len(found):
        raise MessageError(f"{place} has {key} that are there twice")


@dataclass(slots=True)
class Ledger:
    """The newest version of every sender: what is older, or of an agent that was replaced, is not news."""

    senders: int = 1024  # four for each of 256 peers: room for their successors
    retired: int = 8  # epochs remembered for each sender
    _newest: OrderedDict[object, tuple[Version, deque[str]]] = field(default_factory=OrderedDict)

    def is_news(self, sender: object, version: Version) -> bool:
        """Whether `version` is newer than all from this sender; if so it is the newest from now on."""
        newest, gone = self._newest.get(sender, (None, deque[str](maxlen=self.retired)))
        if newest and version.epoch == newest.epoch and version.count <= newest.count:
            return False
        if version.epoch in gone:
            return False
        if newest and version.epoch != newest.epoch:
            gone.append(newest.epoch)
        self._newest[sender] = version, gone
        self._newest.move_to_end(sender)
        if len(self._newest) > self.senders:
            self._newest.popitem(last=False)
        return True
