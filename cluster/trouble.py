"""Why a published port has no task behind it, in the words of Swarm and of this node's engine."""

# types-docker leaves the SDK's methods for services without types:
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshlb.cluster.client import APIClient, verb
from meshlb.text import shown

Json = dict[str, Any]
MOST = 3  # reasons
_LONGEST = 200  # characters of one


@verb
def of_service(api: APIClient, name: str) -> tuple[str, ...]:
    """What keeps the tasks of a service from running; nothing when Swarm knows nothing."""
    service = api.inspect_service(name)
    return reasons(service, api.tasks(filters={"service": name}))


@verb
def of_last_container(api: APIClient, name: str) -> tuple[str, ...]:
    """Why this node's last task of a service was unhealthy, if it was: Swarm itself forgets that."""
    label = f"com.docker.swarm.service.name={name}"
    found = api.containers(all=True, filters={"label": label}, limit=1)
    return tuple(unhealthy(api.inspect_container(one["Id"])) for one in found if one)


@verb
def outside_the_mesh(api: APIClient, port: int, protocol: str) -> tuple[str, ...]:
    """The services that publish a port on the nodes of their tasks alone (mode=host)."""
    return tuple(
        str(service["Spec"]["Name"]) for service in api.services() if _in_host_mode(service, port, protocol)
    )


def reasons(service: Json, tasks: Iterable[Json]) -> tuple[str, ...]:
    """The newest of each kind (pure)."""
    spec = service["Spec"]
    if ((spec.get("Mode") or {}).get("Replicated") or {}).get("Replicas", 1) == 0:
        return (f"it is scaled to 0 tasks: meshlb service scale {spec['Name']}=1",)
    restart = ((spec.get("TaskTemplate") or {}).get("RestartPolicy") or {}).get("Condition", "any")
    newest = sorted(tasks, key=lambda task: str(task.get("CreatedAt", "")), reverse=True)
    return tuple(dict.fromkeys(filter(None, (_reason(task, restart) for task in newest))))[:MOST]


def _reason(task: Json, restart: str) -> str:
    status = task.get("Status") or {}
    state = str(status.get("State", ""))
    text = " ".join(str(status.get("Err") or "").split())
    if text:
        return f"a task is {state}: {shown(text, _LONGEST)}"
    if state == "complete":
        after = (
            "starts it again after a while" if restart == "any" else "starts no other (--restart-condition)"
        )
        return f"a task is complete: its server ended without an error, or unhealthy; Swarm {after}"
    return {
        "preparing": "a task is preparing: its image is fetched",
        "starting": "a task is starting: wait until its health check succeeds, if it has one",
    }.get(state, "")


def unhealthy(container: Json) -> str:
    """The last word of a health check that failed; empty where none did (pure)."""
    health = (container.get("State") or {}).get("Health") or {}
    if health.get("Status") != "unhealthy":
        return ""
    last = (health.get("Log") or [{}])[-1]
    output = " ".join(str(last.get("Output") or "").split())
    said = f" and said: {shown(output, _LONGEST)}" if output else ""
    name = shown(str(container.get("Name", "")).lstrip("/"))
    return f"{name}, here, was unhealthy: its check ended with {last.get('ExitCode', 'nothing')}{said}"


def _in_host_mode(service: Json, port: int, protocol: str) -> bool:
    ports = (service.get("Endpoint") or {}).get("Ports") or ()
    return any(
        (one.get("PublishedPort"), one.get("Protocol"), one.get("PublishMode")) == (port, protocol, "host")
        for one in ports
    )
