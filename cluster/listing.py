"""Services and tasks as rows: what `service ls` and `service ps` show (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from meshlb.cluster.order import natural

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """One service. `image` keeps its digest."""

    id: str
    name: str
    mode: str
    replicas: str
    image: str
    ports: str


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task. `previous` marks an earlier task of the same slot."""

    id: str
    name: str
    previous: bool
    image: str
    node: str
    desired: str
    state: str
    since: datetime
    error: str
    ports: str


def service_row(service: Json, running: int | None = None, wanted: int | None = None) -> ServiceRow:
    """A service of the engine's JSON; the counts are for engines that do not tell them."""
    spec = service["Spec"]
    status = service.get("ServiceStatus") or {"RunningTasks": running or 0, "DesiredTasks": wanted or 0}
    image = (spec["TaskTemplate"].get("ContainerSpec") or {}).get("Image", "")
    return ServiceRow(
        id=service["ID"],
        name=spec.get("Name", ""),
        mode=mode(spec),
        replicas=_replicas(spec, status),
        image=image,
        ports=published((service.get("Endpoint") or {}).get("Ports") or ()),
    )


def mode(spec: Json) -> str:
    """The service's mode in docker's words."""
    names = {
        "Replicated": "replicated",
        "Global": "global",
        "ReplicatedJob": "replicated job",
        "GlobalJob": "global job",
    }
    return next((name for key, name in names.items() if key in spec.get("Mode", {})), "")


def _replicas(spec: Json, status: Json) -> str:
    count = f"{status.get('RunningTasks', 0)}/{status.get('DesiredTasks', 0)}"
    most = (spec["TaskTemplate"].get("Placement") or {}).get("MaxReplicas", 0)
    if most and "Replicated" in spec.get("Mode", {}):
        return f"{count} (max {most} per node)"
    job = spec.get("Mode", {}).get("ReplicatedJob")
    if job:
        return f"{count} ({status.get('CompletedTasks', 0)}/{job.get('TotalCompletions', 0)} completed)"
    return count


def published(ports: Iterable[Json]) -> str:
    """The ports of the routing mesh, neighbours drawn together: `*:80->8000/tcp, *:100-102->100-102/udp`."""
    mesh = [port for port in ports if port.get("PublishMode", "ingress") == "ingress"]
    groups: list[list[tuple[int, int]]] = []
    protocols: list[str] = []
    for port in sorted(mesh, key=lambda port: (port["Protocol"], port.get("PublishedPort", 0))):
        numbers = (port.get("PublishedPort", 0), port["TargetPort"])
        if groups and protocols[-1] == port["Protocol"] and _continues(groups[-1], numbers):
            groups[-1].append(numbers)
        else:
            groups.append([numbers])
            protocols.append(port["Protocol"])
    return ", ".join(_group(group, protocol) for group, protocol in zip(groups, protocols, strict=True))


def _continues(group: list[tuple[int, int]], numbers: tuple[int, int]) -> bool:
    last, first = group[-1], group[0]
    steps = (numbers[0] - last[0], numbers[1] - last[1])
    ranged = first[1] != last[1]
    return steps[0] in (0, 1) and steps[1] in (0, 1) and not (ranged and steps[1] == 0)


def _group(group: list[tuple[int, int]], protocol: str) -> str:
    (first, target), (last, last_target) = group[0], group[-1]
    return f"*:{_span(first, last)}->{_span(target, last_target)}/{protocol}"


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def task_rows(tasks: Iterable[Json], services: Mapping[str, str], nodes: Mapping[str, str]) -> list[TaskRow]:
    """Tasks by name, the newest of a slot first; `services` and `nodes` are names by id."""
    named = [(_task_name(task, services), task) for task in tasks]
    named.sort(key=lambda pair: pair[1]["CreatedAt"], reverse=True)
    named.sort(key=lambda pair: natural(pair[0]))
    rows, before = [], ""
    for name, task in named:
        rows.append(_task_row(name, task, name == before, nodes))
        before = name
    return rows


def _task_name(task: Json, services: Mapping[str, str]) -> str:
    service = services.get(task["ServiceID"], task["ServiceID"])
    return f"{service}.{task.get('Slot') or task.get('NodeID', '')}"


def _task_row(name: str, task: Json, previous: bool, nodes: Mapping[str, str]) -> TaskRow:
    status = task["Status"]
    node = task.get("NodeID", "")
    ports = (status.get("PortStatus") or {}).get("Ports") or ()
    return TaskRow(
        id=task["ID"],
        name=name,
        previous=previous,
        image=(task["Spec"].get("ContainerSpec") or {}).get("Image", ""),
        node=nodes.get(node, node),
        desired=str(task["DesiredState"]),
        state=str(status["State"]),
        since=moment(status["Timestamp"]),
        error=str(status.get("Err", "")),
        ports=",".join(
            f"*:{port['PublishedPort']}->{port['TargetPort']}/{port['Protocol']}"
            for port in ports
            if port.get("PublishMode") == "host"
        ),
    )


def moment(text: str) -> datetime:
    """A time of the engine's JSON, which counts nanoseconds and leaves trailing zeros out."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    parsed = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
    return parsed.replace(microsecond=int(f"{fraction:0<6.6}") if fraction.isdigit() else 0)
