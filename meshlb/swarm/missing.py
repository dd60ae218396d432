"""Tasks that gossip has ceased to show, though nobody has said that they ended. Pure.

Gossip calls a node dead that it has not reached for some four seconds, even when the link has been back for
two of them, and drops all that the node has told; up to half a minute later (seen on 20.10) it is all there
again. It drops and takes entries one by one, so that a look may find half of them. Established connections
must not pay for either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from math import inf

from meshlb.model import BackendState, Node, Service, Task
from meshlb.swarm.view import View, renamed

HALF = 0.5  # seconds after which what a look shows is not the half of something
LOST_STAYS = 90.0  # seconds until the tasks of a node that gossip does not find again are given up


@dataclass(frozen=True, slots=True)
class _Missed:
    service: Service  # without its tasks
    task: Task
    peer: Node  # where it runs
    since: float


def _renamed(missed: _Missed, addresses: Mapping[str, str]) -> _Missed:
    at = addresses.get(missed.task.node, missed.task.node)
    return replace(missed, task=replace(missed.task, node=at), peer=replace(missed.peer, address=at))


class Missing:
    """Remembers other nodes' tasks for a while after gossip has ceased to show them.

    While their node is missing, too, they are suspected: they keep their connections, and get new ones only
    where no other task is up. Those of a node that is still there drain for the moment until they are given
    up.
    """

    def __init__(self) -> None:
        self._last = self._told = View()
        self._until = 0.0  # until then the same view is told the same
        self._heard: dict[str, float] = {}  # the nodes that are there, and since when
        self._lost: dict[str, float] = {}  # the nodes that were there, and since when they are not
        self._missed: dict[str, _Missed] = {}

    @property
    def lost(self) -> frozenset[str]:
        """The addresses of the nodes that gossip has ceased to show, until they are given up."""
        return frozenset(self._lost)

    def remember(self, view: View, own: str, now: float) -> View:
        """The view with what is missing; `own` is this node's address, about which its engine is right."""
        if view is not self._last or now >= self._until:
            self._look_for_nodes(view.heard, now)
            self._missed = self._missing(view, own, now)
            self._last, self._told = view, self._filled(view) if self._missed else view
            ends = (*map(self._end, self._missed.values()), *(at + LOST_STAYS for at in self._lost.values()))
            self._until = min(ends, default=inf)
        return self._told

    def rename(self, addresses: Mapping[str, str]) -> None:
        """Nodes are known by other addresses from now on; those that are not named keep theirs."""
        self._last, self._until = renamed(self._last, addresses), 0.0
        self._heard = {addresses.get(node, node): since for node, since in self._heard.items()}
        self._lost = {addresses.get(node, node): since for node, since in self._lost.items()}
        self._missed = {key: _renamed(missed, addresses) for key, missed in self._missed.items()}

    def _missing(self, view: View, own: str, now: float) -> dict[str, _Missed]:
        shown = {task.id for service in view.services for task in service.tasks}
        missed = {key: found for key, found in self._missed.items() if key not in shown}
        gone = {found.task.id: found for found in self._gone(shown, (own, ""), now)}
        return {key: found for key, found in (gone | missed).items() if now < self._end(found)}

    def _look_for_nodes(self, heard: frozenset[str], now: float) -> None:
        gone = dict.fromkeys(self._heard.keys(), now) | self._lost
        self._lost = {
            node: since for node, since in gone.items() if node not in heard and now - since < LOST_STAYS
        }
        self._heard = {node: self._heard.get(node, now) for node in heard}

    def _gone(self, shown: Set[str], elsewhere: tuple[str, ...], now: float) -> Iterator[_Missed]:
        """What the last view had, but for the tasks of certain nodes; they are missed from now on."""
        peers = {peer.address: peer for peer in self._last.peers}
        for service in self._last.services:
            tasks = [task for task in service.tasks if task.id not in shown and task.node not in elsewhere]
            bare = replace(service, tasks=()) if tasks else service
            for task in tasks:
                yield _Missed(bare, task, peers.get(task.node, Node("", "", task.node)), now)

    def _end(self, missed: _Missed) -> float:
        """When it is given up, as things are now."""
        heard = self._heard.get(missed.task.node)
        return missed.since + LOST_STAYS if heard is None else max(missed.since, heard) + HALF

    def _filled(self, view: View) -> View:
        services = {service.name: service for service in view.services}
        peers = {missed.peer.address: missed.peer for missed in self._missed.values()}
        peers |= {peer.address: peer for peer in view.peers}
        filled: dict[str, list[Task]] = {}
        for missed in self._missed.values():
            name = missed.service.name
            service = services.setdefault(name, missed.service)
            lost = missed.peer.address not in self._heard
            state = BackendState.SUSPECTED if lost else BackendState.DRAINING
            filled.setdefault(name, list(service.tasks)).append(replace(missed.task, state=state))
        for name, tasks in filled.items():
            ordered = tuple(sorted(tasks, key=lambda task: (task.name, task.address)))
            services[name] = replace(services[name], tasks=ordered)
        return replace(
            view,
            services=tuple(services[name] for name in sorted(services)),
            peers=tuple(peers[address] for address in sorted(peers)),
        )
