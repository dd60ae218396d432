"""Tasks that gossip has ceased to show, though nobody has said that they ended. Pure.

Gossip calls a node dead that it has not reached for some four seconds, even when the link has been back for
two of them, and drops all that the node has told; up to half a minute later (seen on 20.10) it is all there
again. It drops and takes entries one by one, so that a look may find half of them. Established connections
must not pay for either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from meshlb.model import BackendState, Node, Service, Task
from meshlb.swarm.view import View

HALF = 0.5  # seconds after which what a look shows is not the half of something
LOST_STAYS = 90.0  # seconds until the tasks of a node that gossip does not find again are given up


@dataclass(frozen=True, slots=True)
class _Missed:
    service: Service  # without its tasks
    task: Task
    peer: Node  # where it runs
    since: float


class Missing:
    """Remembers other nodes' tasks for a while after gossip has ceased to show them.

    While their node is missing, too, they are suspected: they keep their connections, and get new ones only
    where no other task is up. Those of a node that is still there drain for the moment until they are given
    up.
    """

    def __init__(self) -> None:
        self._last = View()
        self._heard: dict[str, float] = {}  # the nodes that are there, and since when
        self._lost: dict[str, float] = {}  # the nodes that were there, and since when they are not
        self._missed: dict[str, _Missed] = {}

    @property
    def lost(self) -> frozenset[str]:
        """The addresses of the nodes that gossip has ceased to show, until they are given up."""
        return frozenset(self._lost)

    def remember(self, view: View, own: str, now: float) -> View:
        """The view with what is missing; `own` is this node's address, about which its engine is right."""
        if view is self._last and not self._missed and not self._lost:
            return view
        self._look_for_nodes(view.heard, now)
        shown = {task.id for service in view.services for task in service.tasks}
        gone = {
            m.task.id: m for m in self._tasks(now) if m.task.id not in shown and m.task.node not in (own, "")
        }
        missed = {key: found for key, found in self._missed.items() if key not in shown}
        self._missed = {k: m for k, m in (gone | missed).items() if not self._is_over(m, now)}
        self._last = view
        return self._filled(view) if self._missed else view

    def _look_for_nodes(self, heard: frozenset[str], now: float) -> None:
        gone = dict.fromkeys(self._heard.keys(), now) | self._lost
        self._lost = {
            node: since for node, since in gone.items() if node not in heard and now - since < LOST_STAYS
        }
        self._heard = {node: self._heard.get(node, now) for node in heard}

    def _tasks(self, now: float) -> list[_Missed]:
        """All of the last view, as if they were missed from now on."""
        peers = {peer.address: peer for peer in self._last.peers}
        return [
            _Missed(replace(service, tasks=()), task, peers.get(task.node, Node("", "", task.node)), now)
            for service in self._last.services
            for task in service.tasks
        ]

    def _is_over(self, missed: _Missed, now: float) -> bool:
        heard = self._heard.get(missed.task.node)
        if heard is None:
            return now - missed.since >= LOST_STAYS
        return now - max(missed.since, heard) >= HALF

    def _filled(self, view: View) -> View:
        services = {service.name: service for service in view.services}
        peers = {peer.address: peer for peer in view.peers}
        for missed in self._missed.values():
            lost = missed.peer.address not in self._heard
            task = replace(missed.task, state=BackendState.SUSPECTED if lost else BackendState.DRAINING)
            service = services.get(missed.service.name, missed.service)
            tasks = sorted((*service.tasks, task), key=lambda task: (task.name, task.address))
            services[service.name] = replace(service, tasks=tuple(tasks))
            peers.setdefault(missed.peer.address, missed.peer)
        return replace(
            view,
            services=tuple(services[name] for name in sorted(services)),
            peers=tuple(peers[address] for address in sorted(peers)),
        )
