"""What other nodes tell of their tasks, or their silence, laid over a snapshot. Pure.

Only the node that runs a task is believed about it: states are looked up by the node of the task, as gossip
shows it. Nothing here takes away all tasks of a service: those of a dead node are left out, which ends their
connections, where others are left.
"""

from __future__ import annotations

from dataclasses import replace

from meshlb.model import BackendState, Remote, Service, Snapshot, Task

# What several say of one task: the worst counts.
_SEVERITY = (BackendState.UP, BackendState.SUSPECTED, BackendState.DRAINING, BackendState.DOWN)


def lay_over(snapshot: Snapshot, remote: Remote) -> Snapshot:
    """The snapshot with the states of other nodes' tasks; those of its own node are as they were."""
    if remote == Remote():
        return snapshot
    services = tuple(_service(service, remote, snapshot.node) for service in snapshot.services)
    return replace(snapshot, services=services)


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
