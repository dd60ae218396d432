"""What other nodes tell of their tasks, or their silence, laid over a snapshot. Pure.

Only the node that runs a task is believed about it: states are looked up by the node of the task, as gossip
shows it. Nothing here takes away all tasks of a service: those of a dead node are left out, which ends their
connections, where others are left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from meshlb.model import BackendState, Node, Prepared, Remote, Service, Snapshot, Task

# Addresses of clients that are on the node itself, or mean something else to each host.
NEVER = frozenset({"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"})
# What several say of one task: the worst counts.
_SEVERITY = (BackendState.UP, BackendState.SUSPECTED, BackendState.DRAINING, BackendState.DOWN)


def lay_over(snapshot: Snapshot, remote: Remote) -> Snapshot:
    """The snapshot with the states of other nodes' tasks; those of its own node are as they were."""
    if remote == Remote():
        return snapshot
    services = tuple(_service(service, remote, snapshot.node) for service in snapshot.services)
    if remote.face.address and remote.face.namespace_id == snapshot.namespace_id:
        services = tuple(_faced(service, remote) for service in services)
    return replace(
        snapshot,
        services=services,
        nodes=_nodes(snapshot, remote),
        masked=_masked(remote),
        hindrances=_hindrances(remote, snapshot.node),
        living=_living(snapshot, services, remote),
    )


def _nodes(snapshot: Snapshot, remote: Remote) -> tuple[Node, ...]:
    """Those that gossip shows, and those that are silent. Others that managers list may have left."""
    silent = tuple(node for node in snapshot.unseen if node.address in remote.suspected)
    return tuple(sorted((*snapshot.nodes, *silent), key=lambda node: node.address))


def _living(snapshot: Snapshot, services: Iterable[Service], remote: Remote) -> frozenset[str]:
    """Without the tasks of dead nodes that have been left out."""
    if not remote.dead:
        return snapshot.living
    tasks = (task for service in snapshot.services for task in service.tasks)
    dead = {task.id for task in tasks if task.node in remote.dead}
    return snapshot.living - (dead - {task.id for service in services for task in service.tasks})


def _hindrances(remote: Remote, own: str) -> tuple[tuple[str, str], ...]:
    found = {address: told.problem for address, told in remote.prepared.items()}
    found[own] = remote.face.problem or found.get(own, "")
    return tuple(sorted((address, problem) for address, problem in found.items() if problem))


def _faced(service: Service, remote: Remote) -> Service:
    """With the tasks known that can be shown clients' own addresses from this node."""
    tasks = tuple(
        replace(task, prepared=True) if _is_prepared(task, remote) else task for task in service.tasks
    )
    return service if tasks == service.tasks else replace(service, tasks=tasks)


def _is_prepared(task: Task, remote: Remote) -> bool:
    told = remote.prepared.get(task.node, Prepared())
    return task.id in told.tasks and remote.face.address in told.hosts


def _masked(remote: Remote) -> tuple[str, ...]:
    networks = set().union(*(told.networks for told in remote.prepared.values()))
    return tuple(sorted(networks.union(NEVER))) if networks else ()


def _service(service: Service, remote: Remote, own: str) -> Service:
    tasks = tuple(task if task.node in (own, "") else _task(task, remote) for task in service.tasks)
    left = tuple(task for task in tasks if task.node in (own, "") or task.node not in remote.dead)
    usable = any(task.state is not BackendState.DOWN for task in left)
    return replace(service, tasks=left if usable else tasks)


def _task(task: Task, remote: Remote) -> Task:
    told = remote.tasks.get(task.node, {}).get(task.id, BackendState.UP)
    silent = BackendState.SUSPECTED if task.node in remote.suspected else BackendState.UP
    state = max(task.state, told, silent, key=_SEVERITY.index)
    return task if state is task.state else replace(task, state=state)
