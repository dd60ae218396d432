"""Where services lead their ports, and where they did: what tells it at a moment is not the whole."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from meshlb.model import Port, Protocol, Service
from meshlb.swarm.view import View, by_published

PORTS_STAY = 10.0  # seconds; a task in ten that alone has a port is missed by 40 looks once in 70 times


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
            for number, targets in by_published(service.ports).items():
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

    def remember(
        self, services: Collection[Service], view: View, *, told: bool = True
    ) -> tuple[Service, ...]:
        """The services, with what has been different when their tasks were first seen.

        `view` is gossip's. It is `told` by managers what ports services with ids have now.
        """
        ids = frozenset(task.id for service in services for task in service.tasks)
        if ids:
            self._unsure = ids if self._unsure is None else self._unsure & ids
        seen = {service.name: service.ports for service in view.services}
        for name, ports in view.others:
            seen[name] = (*seen.get(name, ()), *ports)
        before, self._ports, self._tasks = (self._ports, self._tasks), {}, {}
        return tuple(
            self._of(service, seen.get(service.name, ()), told and service.id != "", *before)
            for service in services
        )

    def _of(
        self,
        service: Service,
        seen: tuple[Port, ...],
        told: bool,
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
        if elsewhere and not told:  # no manager tells which of them is the service's
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
