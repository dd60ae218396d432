"""What only a manager knows, from its lists or from another agent that has them: services, nodes. Pure.

As of the view, a piece that cannot be read is left out and said so in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from meshlb.errors import EngineError
from meshlb.model import Desired, Node, Port, Protocol, Service
from meshlb.policy import CLIENT_ADDRESS, LABEL_PREFIX, TRANSPARENT
from meshlb.swarm.answers import dict_in, list_in, text_in
from meshlb.swarm.view import View, by_number, by_published, is_port, is_reachable, without_port
from meshlb.text import shown

_ID = re.compile(rb'"ID": ?"(\w+)"', re.ASCII)
_UPDATING = ("updating", "rollback_started")
_JOBS = {"ReplicatedJob", "GlobalJob"}  # Swarm wants their tasks to be complete, not to run


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
        any(dict_in(dict_in(service).get("UpdateStatus")).get("State") in _UPDATING for service in services),
        jobs=frozenset(name for service in services if (name := _job(service))),
    )


def _job(service: object) -> str:
    """The name of a service that is a job; empty for others."""
    spec = dict_in(dict_in(service).get("Spec"))
    return text_in(spec.get("Name")) if dict_in(spec.get("Mode")).keys() & _JOBS else ""


def parse_wanted(tasks: object) -> frozenset[str]:
    """The ids of the tasks that Swarm wants to run, from `/tasks` filtered by that."""
    if not isinstance(tasks, list):
        raise EngineError("the engine answered /tasks with something that is not a list")
    return frozenset(text_in(dict_in(task).get("ID")) for task in tasks)


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


def showing(services: Mapping[str, Service]) -> frozenset[str]:
    """The names of services of which a port is to show clients' own addresses."""
    return frozenset(
        name
        for name, service in services.items()
        if any(key.endswith(CLIENT_ADDRESS) and text == TRANSPARENT for key, text in service.labels)
    )


def _listed_service(found: object, problems: list[str]) -> Service:
    spec = dict_in(dict_in(found).get("Spec"))
    name = text_in(spec.get("Name"))
    published = list_in(dict_in(dict_in(found).get("Endpoint")).get("Ports"))
    ports = {
        port
        for entry in published
        if dict_in(entry).get("PublishMode") == "ingress"
        and (port := _listed_port(name, dict_in(entry), problems))
    }
    labels = tuple(sorted((key, text_in(value)) for key, value in dict_in(spec.get("Labels")).items()))
    return Service(text_in(dict_in(found).get("ID")), name, tuple(sorted(ports, key=by_number)), (), labels)


def _listed_port(service: str, entry: dict[str, object], problems: list[str]) -> Port | None:
    published, target, protocol = entry.get("PublishedPort"), entry.get("TargetPort"), entry.get("Protocol")
    if protocol == "sctp":
        problems.append(
            f"service {shown(service)}: port {shown(published)}/sctp is not served: "
            "meshlb carries tcp and udp"
        )
        return None
    if not (is_port(published) and is_port(target) and protocol in tuple(Protocol)):
        problems.append(
            f"service {shown(service)}: cannot read its port "
            f'"{shown(published)}:{shown(target)}/{shown(protocol)}"; left out'
        )
        return None
    return Port(int(str(published)), int(str(target)), Protocol(str(protocol)))


def _by_readiness(node: object) -> tuple[bool, str]:
    """Nodes that are down first: one that left and joined again is listed twice, and the later entry wins."""
    return dict_in(dict_in(node).get("Status")).get("State") == "ready", text_in(dict_in(node).get("ID"))


def _listed_node(found: object) -> Node:
    node = dict_in(found)
    address = text_in(dict_in(node.get("Status")).get("Addr"))
    manager = text_in(dict_in(node.get("ManagerStatus")).get("Addr"))
    manager = without_port(manager)
    if manager and not is_reachable(address):
        address = manager  # a manager that listens on every address reports 0.0.0.0 as its own
    return Node(
        text_in(node.get("ID")),
        text_in(dict_in(node.get("Description")).get("Hostname")),
        address,
        _labels(node),
    )


def _labels(node: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """The mesh's own; others are nobody's business."""
    labels = dict_in(dict_in(node.get("Spec")).get("Labels"))
    return tuple(
        sorted((key, text_in(value)) for key, value in labels.items() if key.startswith(LABEL_PREFIX))
    )


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


def as_shown(listed: Mapping[str, Service], view: View) -> dict[str, Service]:
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
    targets = by_published(shown).items()
    ports = {port for number, found in targets for port in _of_number(number, found, listed.ports)}
    return replace(listed, ports=tuple(sorted(ports, key=by_number)))


def _of_number(number: int, targets: frozenset[int], listed: Iterable[Port]) -> list[Port]:
    """The ports of this number that lead to these targets. A target that is not listed is the newer one."""
    known = [port for port in listed if port.published == number]
    if not known:
        return [Port(number, target) for target in targets]
    new = targets - {port.target for port in known}
    if not new:
        return [port for port in known if port.target in targets]
    moved = known[:1] if len(known) == 1 else [port for port in known if port.target not in targets]
    return [replace(port, target=max(new)) if port in moved else port for port in known]
