"""The verbs of services: to create, list, scale, change and remove them, and to follow their progress."""

# types-docker leaves the SDK's methods for services without types:
# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import docker.errors
from docker import utils

from meshlb.cluster import node
from meshlb.cluster.client import APIClient, translating, verb
from meshlb.cluster.convergence import Frame, Watch
from meshlb.cluster.image import pin, tagged
from meshlb.cluster.listing import ServiceRow, TaskRow, service_row, task_rows
from meshlb.cluster.order import natural
from meshlb.cluster.spec import Changes, Edit, Json, changed, created
from meshlb.errors import ConfigError

Filters = dict[str, list[str]]

POLL = 0.2  # seconds between two looks at a service that is on its way
_TRIES = 3  # of an update that somebody else's update came in between


@verb
def create(
    api: APIClient, name: str, mode: str, changes: Changes, *, resolve: bool = True
) -> tuple[str, tuple[str, ...]]:
    """Creates a service; its id, and docker's warnings."""
    changes = replace(changes, values=_tagged(changes))
    spec = created(name, mode, changes)
    warnings = _pin(api, spec["TaskTemplate"]) if resolve else ()
    made = api.create_service(
        spec["TaskTemplate"],
        name=spec.get("Name"),
        labels=spec["Labels"],
        mode=spec["Mode"],
        update_config=spec.get("UpdateConfig"),
        rollback_config=spec.get("RollbackConfig"),
        endpoint_spec=spec.get("EndpointSpec"),
    )
    return str(made["ID"]), warnings + _warnings(made)


@verb
def update(api: APIClient, name: str, changes: Changes, *, resolve: bool = True) -> tuple[str, ...]:
    """Changes a service; docker's warnings."""
    changes = replace(changes, values=_tagged(changes), networks=_network_ids(api, changes.networks))
    for attempt in range(_TRIES):
        service = api.inspect_service(name)
        spec = changed(service["Spec"], changes)
        warnings = _pin(api, spec["TaskTemplate"]) if resolve and "image" in changes.values else ()
        try:
            return warnings + _warnings(_send(api, service, spec))
        except docker.errors.APIError as error:
            if "update out of sequence" not in str(error.explanation) or attempt == _TRIES - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


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
    tasks = api.tasks(filters={**(filters or {}), "service": list(found)})
    nodes = node.names(api.nodes()) if resolve else {}
    return task_rows(tasks, found if resolve else {}, nodes), tuple(problems)


def follow(
    api: APIClient,
    name: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Frame]:
    """The service's progress, a frame every POLL seconds, until it has converged.

    EngineError when it will not converge by itself. Jobs are not followed: they end, they do not converge.
    """
    with translating(api):
        service = api.inspect_service(name)
        if "Job" in "".join(service["Spec"]["Mode"]):
            return
        watch = Watch(service["Spec"]["Name"], clock())
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


def _tagged(changes: Changes) -> dict[str, Any]:
    values = dict(changes.values)
    if "image" in values:
        if not values["image"] or any(mark.isspace() for mark in values["image"]):
            raise ConfigError(f'"{values["image"]}" is not the name of an image')
        values["image"] = tagged(values["image"])
    return values


def _pin(api: APIClient, template: Json) -> tuple[str, ...]:
    warning = pin(api, template)
    return (warning,) if warning else ()


def _warnings(answer: Json | None) -> tuple[str, ...]:
    return tuple(str(warning) for warning in (answer or {}).get("Warnings") or ())


def _send(api: APIClient, service: Json, spec: Json) -> Json:
    return dict(
        api.update_service(
            service["ID"],
            service["Version"]["Index"],
            task_template=spec["TaskTemplate"],
            name=spec["Name"],
            labels=spec.get("Labels") or {},
            mode=spec["Mode"],
            update_config=spec.get("UpdateConfig"),
            rollback_config=spec.get("RollbackConfig"),
            endpoint_spec=spec.get("EndpointSpec"),
        )
        or {}
    )


def _network_ids(api: APIClient, edit: Edit) -> Edit:
    """The networks by id, as a service that exists already names them."""
    if edit == Edit():
        return edit
    add = tuple({**network, "Target": api.inspect_network(network["Target"])["Id"]} for network in edit.add)
    return Edit(add, tuple(api.inspect_network(name)["Id"] for name in edit.remove))


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
