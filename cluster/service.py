"""The verbs of services: to create, list, scale, change and remove them, and to follow their progress."""

# types-docker leaves the SDK's methods for services without types:
# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import docker.errors
from docker import utils

from meshlb.cluster import node
from meshlb.cluster.client import APIClient, request, translating, verb
from meshlb.cluster.convergence import Frame, Watch
from meshlb.cluster.image import credentials, pin
from meshlb.cluster.job import JobWatch
from meshlb.cluster.listing import ServiceRow, TaskRow, service_row, task_rows
from meshlb.cluster.order import natural
from meshlb.cluster.resolve import resolved
from meshlb.cluster.spec import Changes, Json, changed, created
from meshlb.errors import EngineError

Filters = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Sending:
    """How a specification is sent: whether the image's digest is looked up, and our login sent along."""

    resolve_image: bool = True
    registry_auth: bool = False


POLL = 0.2  # seconds between two looks at a service that is on its way
_TRIES = 3  # of an update that somebody else's update came in between


@verb
def create(
    api: APIClient, name: str, mode: str, changes: Changes, sending: Sending = Sending()
) -> tuple[str, tuple[str, ...]]:
    """Creates a service; its id, and docker's warnings."""
    spec = created(name, mode, resolved(api, changes))
    warnings = _pin(api, spec["TaskTemplate"]) if sending.resolve_image else ()
    headers = _credentials(api, spec) if sending.registry_auth else None
    made = request(api, "POST", "/services/create", body=spec, headers=headers)
    return str(made["ID"]), warnings + _warnings(made)


@verb
def update(api: APIClient, name: str, changes: Changes, sending: Sending = Sending()) -> tuple[str, ...]:
    """Changes a service; docker's warnings."""
    changes = resolved(api, changes)
    for attempt in range(_TRIES):
        service = api.inspect_service(name)
        spec = changed(service["Spec"], changes)
        new_image = sending.resolve_image and "image" in changes.values
        warnings = _pin(api, spec["TaskTemplate"]) if new_image else ()
        try:
            return warnings + _warnings(_send(api, service, spec, sending))
        except docker.errors.APIError as error:
            if "update out of sequence" not in str(error.explanation) or attempt == _TRIES - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


@verb
def rollback(api: APIClient, name: str) -> tuple[str, ...]:
    """Gives a service its previous specification again; docker's warnings."""
    service = api.inspect_service(name)
    if not service.get("PreviousSpec"):
        raise EngineError(
            f"service {name} has no previous specification to go back to: nothing was updated since it was "
            "created"
        )
    return _warnings(_send(api, service, service["Spec"], Sending(), rollback="previous"))


def scale(api: APIClient, name: str, replicas: int) -> tuple[str, ...]:
    """Sets the number of a service's replicas; docker's warnings."""
    return update(api, name, Changes(replicas=replicas))


@verb
def rm(api: APIClient, name: str) -> None:
    """Removes a service with its tasks."""
    api.remove_service(name)


@verb
def inspect(api: APIClient, name: str) -> Json:
    """A service, as the engine's JSON has it, with Swarm's defaults where nothing else was asked."""
    return dict(api.inspect_service(name, insert_defaults=True))


@verb
def network_names(api: APIClient) -> dict[str, str]:
    """The names of the swarm's networks by their ids."""
    return {network["Id"]: network["Name"] for network in api.networks(filters={"scope": "swarm"})}


@verb
def ls(api: APIClient, filters: Filters | None = None) -> list[ServiceRow]:
    """The services that pass the filters, by name."""
    if utils.version_gte(api.api_version, "1.41"):
        rows = [service_row(service) for service in api.services(filters=filters or {}, status=True)]
    else:
        rows = _counted(api, api.services(filters=filters or {}))
    return sorted(rows, key=lambda row: natural(row.name))


@verb
def ps(
    api: APIClient, names: Iterable[str], filters: Filters | None = None, *, resolve: bool = True
) -> tuple[list[TaskRow], tuple[str, ...]]:
    """The tasks of services, and a sentence for each service that is not there.

    `resolve` gives services and nodes their names in place of their ids.
    """
    found, problems = {}, []
    for name in names:
        try:
            service = api.inspect_service(name)
            found[service["ID"]] = service["Spec"]["Name"]
        except docker.errors.NotFound:
            problems.append(f"no such service: {name} (`meshlb service ls` lists them)")
    if not found:
        return [], tuple(problems)
    asked = {**(filters or {}), "service": list(found)}
    if "node" in asked:
        asked["node"] = [node.id_of(api, name) for name in asked["node"]]
    tasks = api.tasks(filters=asked)
    nodes = node.names(api.nodes()) if resolve else {}
    return task_rows(tasks, found if resolve else {}, nodes), tuple(problems)


def follow(
    api: APIClient,
    name: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Frame]:
    """The service's progress, a frame every POLL seconds, until it has converged, or as a job is complete.

    EngineError when it will not get there by itself.
    """
    with translating(api):
        service = api.inspect_service(name)
        watching = JobWatch if "Job" in "".join(service["Spec"]["Mode"]) else Watch
        watch = watching(service["Spec"]["Name"], clock())
        while True:
            frame = watch.frame(service, _current_tasks(api, service["ID"]), _active_nodes(api), clock())
            yield frame
            if frame.converged:
                return
            sleep(POLL)
            service = api.inspect_service(service["ID"])


def _current_tasks(api: APIClient, service: str) -> list[Json]:
    # `_up-to-date` is how docker's own client leaves out the tasks of earlier specifications.
    return list(api.tasks(filters={"service": service, "_up-to-date": True}))


def _active_nodes(api: APIClient) -> set[str]:
    return {found["ID"] for found in api.nodes() if found["Status"]["State"] != "down"}


def _pin(api: APIClient, template: Json) -> tuple[str, ...]:
    warning = pin(api, template)
    return (warning,) if warning else ()


def _warnings(answer: Json | None) -> tuple[str, ...]:
    return tuple(str(warning) for warning in (answer or {}).get("Warnings") or ())


def _send(api: APIClient, service: Json, spec: Json, sending: Sending, **query: str) -> Json:
    query |= {"version": str(service["Version"]["Index"])}
    headers = None
    if sending.registry_auth:
        headers = _credentials(api, spec)
    elif not query.get("rollback"):
        query["registryAuthFrom"] = "spec"
    path = f"/services/{service['ID']}/update"
    return dict(request(api, "POST", path, body=spec, query=query, headers=headers) or {})


def _credentials(api: APIClient, spec: Json) -> dict[str, str]:
    return credentials(api, spec["TaskTemplate"]["ContainerSpec"]["Image"])


def _counted(api: APIClient, services: list[Json]) -> list[ServiceRow]:
    """Rows with counts of our own: engines before API 1.41 do not tell them."""
    active, tasks = _active_nodes(api), api.tasks()
    rows = []
    for service in services:
        own = [task for task in tasks if task["ServiceID"] == service["ID"]]
        running = sum(task["Status"]["State"] == "running" and task.get("NodeID") in active for task in own)
        replicated = service["Spec"]["Mode"].get("Replicated")
        alive = sum(task["DesiredState"] != "shutdown" for task in own)
        rows.append(service_row(service, running, replicated["Replicas"] if replicated else alive))
    return rows
