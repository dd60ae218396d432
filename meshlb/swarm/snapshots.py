"""All that is known together: gossip's view, managers' lists and what local containers do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from meshlb import weights
from meshlb.model import BackendState, Node, Service, Snapshot
from meshlb.swarm.lists import Lists, as_shown
from meshlb.swarm.view import View, is_reachable
from meshlb.weights import Weights


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
    listed = (as_shown(lists.services, view) if lists.old else lists.services) if lists else {}
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
    known = {node.address: node for node in (own, *listed) if is_reachable(node.address)}
    nodes = {peer.address: known.get(peer.address, peer) for peer in peers}
    if own.address:
        nodes.setdefault(own.address, known.get(own.address, own))
    return tuple(nodes[address] for address in sorted(nodes))


def _unseen(nodes: Iterable[Node], listed: Iterable[Node]) -> tuple[Node, ...]:
    """Those that managers list and gossip does not show: they may have left, or be cut off, or dead."""
    seen = {node.address for node in nodes}
    found = {node.address: node for node in listed if is_reachable(node.address)}
    return tuple(found[address] for address in sorted(found.keys() - seen))
