"""The agent as a service of the Swarm that it serves: one task on every node, on those that join later, too.

A service cannot be privileged, so the task gets the capabilities that the agent needs, the host's network,
and what the agent looks at of the node:

    /run   the engine's socket, the network namespaces that Docker mounts there later, and /run/meshlb, where
           an update's new agent asks the one before for its sockets
    /host  the node's root, to read Swarm's certificates below Docker's data root, and who holds a port

An update starts the new task first. Its image says that it is healthy once it has taken over; only then the
task before is told to end, and has the time that its connections are given.
"""

# types-docker leaves the SDK's methods for services without types:
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import docker.errors

from meshlb.cluster import capability, mount, node
from meshlb.cluster import service as services
from meshlb.cluster.client import APIClient, verb
from meshlb.cluster.lists import Edit
from meshlb.cluster.order import natural
from meshlb.cluster.resolve import resolved
from meshlb.cluster.service import Sending
from meshlb.cluster.spec import Changes, Json, changed
from meshlb.config import BEYOND_DRAIN

NAME = "meshlb-agent"
HOST_ROOT = "/host"
# fmt: off
CAPABILITIES = ("SYS_ADMIN", "NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE", "DAC_READ_SEARCH", "SYS_PTRACE",
                "CHOWN")  # the last one gives the agent's socket to the group that may ask the engine
# fmt: on
MOUNTS = (  # in the order that a change would sort them in: to deploy again is to change nothing
    "type=tmpfs,target=/var/lib/meshlb",
    f"type=bind,source=/,target={HOST_ROOT},readonly,bind-propagation=rslave",
    "type=bind,source=/run,target=/run,bind-propagation=rslave",
)
_SECOND = 10**9


def changes(image: str, options: Sequence[str], drain: float) -> Changes:
    """What makes a service the agent's: `options` are the agent's own (pure)."""
    return Changes(
        values={
            "image": image,
            "args": list(options) or None,  # an empty list is another specification to Swarm
            "read-only": True,
            "stop-grace-period": int((drain + BEYOND_DRAIN) * _SECOND),
            "restart-delay": 2 * _SECOND,
            "update-order": "start-first",
            "update-failure-action": "rollback",
            "update-monitor": 15 * _SECOND,
            "rollback-order": "start-first",
        },
        lists={
            "env": Edit((f"MESHLB_HOST_ROOT={HOST_ROOT}",)),
            "mount": Edit(tuple(mount.mount(text) for text in MOUNTS)),
            "network": Edit(({"Target": "host"},)),
        },
        capabilities=capability.Change(CAPABILITIES, (capability.ALL,)),
    )


@verb
def deploy(api: APIClient, wanted: Changes, *, registry_auth: bool = False) -> tuple[str, str]:
    """Makes the service, or makes it what is wanted. What came of it, and docker's warnings.

    That is "created", "updated" or "unchanged". What else somebody has set, such as constraints, stays.
    """
    # localhost is no registry: each node has the image, or has it not.
    local = str(wanted.values["image"]).startswith("localhost/")
    sending = Sending(resolve_image=not local, registry_auth=registry_auth)
    try:
        before = _spec(api)
    except docker.errors.NotFound:
        _, warnings = services.create(api, NAME, "global", wanted, sending)
        return "created", "\n".join(warnings)
    # The host's network is there, by an id of the Swarm's that the engine's own does not tell.
    lists = {name: edit for name, edit in wanted.lists.items() if name != "network"}
    wanted = replace(wanted, lists=lists)
    # Of two specifications that say the same Swarm may think otherwise, and start every task anew.
    if local and says_the_same(before, changed(before, resolved(api, wanted))):
        return "unchanged", ""
    warnings = services.update(api, NAME, wanted, sending)
    return "unchanged" if _spec(api) == before else "updated", "\n".join(warnings)


def says_the_same(one: Any, other: Any) -> bool:
    """Whether two specifications differ at most in what is empty in one and left out in the other (pure)."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(says_the_same(one.get(key), other.get(key)) for key in one.keys() | other.keys())
    return bool(one == other) or not (one or other)


@verb
def options(api: APIClient) -> tuple[str, ...]:
    """The agent's own options in the service that there is; none where there is no service."""
    try:
        return tuple(_spec(api)["TaskTemplate"]["ContainerSpec"].get("Args") or ())
    except docker.errors.NotFound:
        return ()


@verb
def hindered(api: APIClient) -> tuple[dict[str, str], int]:
    """What keeps the agent from starting, by nodes' names; and how many nodes are still to be waited for."""
    tasks = api.tasks(filters={"service": NAME, "_up-to-date": True})
    return sorted_out(tasks, node.names(api.nodes()))


def sorted_out(tasks: Iterable[Json], names: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """Each node's error, where its last task to fail has not been followed by one that runs (pure)."""
    newest: dict[str, Json] = {}
    for task in sorted(tasks, key=lambda task: str(task["CreatedAt"])):
        if task.get("DesiredState") == "shutdown" and not task["Status"].get("Err"):
            newest.pop(task["NodeID"], None)  # the node has been drained
            continue
        # Swarm tries again and again: what has come no further than to be prepared says nothing yet.
        tells = task["Status"].get("Err") or task["Status"]["State"] in ("starting", "running")
        if tells or task["NodeID"] not in newest:
            newest[task["NodeID"]] = task
    errors = {
        names.get(place, place): " ".join(task["Status"]["Err"].split())
        for place, task in newest.items()
        if task["Status"].get("Err") and task["Status"]["State"] != "running"
    }
    running = sum(task["Status"]["State"] == "running" for task in newest.values())
    return dict(sorted(errors.items(), key=lambda each: natural(each[0]))), len(newest) - running - len(
        errors
    )


def _spec(api: APIClient) -> Json:
    return dict(api.inspect_service(NAME)["Spec"])
