"""A service's specification, as the engine's JSON, from docker's flags (pure).

To create is to change an empty specification: both verbs share one table of what each flag sets.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from meshlb.cluster.publish import PublishedPort
from meshlb.cluster.units import pair
from meshlb.errors import ConfigError

Json = dict[str, Any]

MODES = {
    "replicated": "Replicated",
    "global": "Global",
    "replicated-job": "ReplicatedJob",
    "global-job": "GlobalJob",
}

# A flag's name without its dashes, and where its value stands in the specification.
PATHS: dict[str, str] = {
    "image": "TaskTemplate.ContainerSpec.Image",
    "entrypoint": "TaskTemplate.ContainerSpec.Command",
    "args": "TaskTemplate.ContainerSpec.Args",
    "hostname": "TaskTemplate.ContainerSpec.Hostname",
    "user": "TaskTemplate.ContainerSpec.User",
    "workdir": "TaskTemplate.ContainerSpec.Dir",
    "init": "TaskTemplate.ContainerSpec.Init",
    "tty": "TaskTemplate.ContainerSpec.TTY",
    "read-only": "TaskTemplate.ContainerSpec.ReadOnly",
    "stop-signal": "TaskTemplate.ContainerSpec.StopSignal",
    "stop-grace-period": "TaskTemplate.ContainerSpec.StopGracePeriod",
    "health-cmd": "TaskTemplate.ContainerSpec.Healthcheck.Test",
    "health-interval": "TaskTemplate.ContainerSpec.Healthcheck.Interval",
    "health-retries": "TaskTemplate.ContainerSpec.Healthcheck.Retries",
    "health-timeout": "TaskTemplate.ContainerSpec.Healthcheck.Timeout",
    "health-start-period": "TaskTemplate.ContainerSpec.Healthcheck.StartPeriod",
    "limit-cpu": "TaskTemplate.Resources.Limits.NanoCPUs",
    "limit-memory": "TaskTemplate.Resources.Limits.MemoryBytes",
    "limit-pids": "TaskTemplate.Resources.Limits.Pids",
    "reserve-cpu": "TaskTemplate.Resources.Reservations.NanoCPUs",
    "reserve-memory": "TaskTemplate.Resources.Reservations.MemoryBytes",
    "replicas-max-per-node": "TaskTemplate.Placement.MaxReplicas",
    "restart-condition": "TaskTemplate.RestartPolicy.Condition",
    "restart-delay": "TaskTemplate.RestartPolicy.Delay",
    "restart-max-attempts": "TaskTemplate.RestartPolicy.MaxAttempts",
    "restart-window": "TaskTemplate.RestartPolicy.Window",
    "update-delay": "UpdateConfig.Delay",
    "update-failure-action": "UpdateConfig.FailureAction",
    "update-max-failure-ratio": "UpdateConfig.MaxFailureRatio",
    "update-monitor": "UpdateConfig.Monitor",
    "update-order": "UpdateConfig.Order",
    "update-parallelism": "UpdateConfig.Parallelism",
    "rollback-delay": "RollbackConfig.Delay",
    "rollback-failure-action": "RollbackConfig.FailureAction",
    "rollback-max-failure-ratio": "RollbackConfig.MaxFailureRatio",
    "rollback-monitor": "RollbackConfig.Monitor",
    "rollback-order": "RollbackConfig.Order",
    "rollback-parallelism": "RollbackConfig.Parallelism",
    "endpoint-mode": "EndpointSpec.Mode",
    "log-driver": "TaskTemplate.LogDriver.Name",
}

# Swarm's own defaults. A group that is sent at all is sent whole: a parallelism left out would mean
# "all tasks at once".
_UPDATE = {
    "Parallelism": 1,
    "FailureAction": "pause",
    "Monitor": 5 * 10**9,
    "MaxFailureRatio": 0,
    "Order": "stop-first",
}
_DEFAULTS: dict[str, Json] = {
    "UpdateConfig": _UPDATE,
    "RollbackConfig": _UPDATE,
    "RestartPolicy": {"Condition": "any", "Delay": 5 * 10**9, "MaxAttempts": 0},
}


@dataclass(frozen=True, slots=True)
class Edit:
    """What to add to a list of the specification and what to take away; taking away comes first."""

    add: tuple[Any, ...] = ()
    remove: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What the flags ask for. `values` are the given flags of PATHS; None and empty leave things alone."""

    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    replicas: int | None = None
    force: bool = False
    env: Edit = Edit()
    labels: Edit = Edit()
    container_labels: Edit = Edit()
    constraints: Edit = Edit()
    ports: Edit = Edit()
    networks: Edit = Edit()
    mounts: Edit = Edit()


def created(name: str, mode: str, changes: Changes) -> Json:
    """The specification of a new service."""
    if mode not in MODES:
        raise ConfigError(f'--mode "{mode}" is not one of {", ".join(MODES)}')
    spec: Json = {"Labels": {}, "TaskTemplate": {"ContainerSpec": {}}, "Mode": {MODES[mode]: {}}}
    if name:
        spec["Name"] = name
    if mode == "replicated":
        spec["Mode"]["Replicated"]["Replicas"] = 1
    return changed(spec, changes)


def changed(spec: Json, changes: Changes) -> Json:
    """A copy of `spec` with the changes made."""
    spec = copy.deepcopy(spec)
    for name, value in changes.values.items():
        _set(spec, PATHS[name], value)
    if changes.replicas is not None:
        _set_replicas(spec["Mode"], changes.replicas)
    template = spec["TaskTemplate"]
    container = template["ContainerSpec"]
    if changes.force:
        template["ForceUpdate"] = template.get("ForceUpdate", 0) + 1
    _edit_map(spec, "Labels", changes.labels)
    _edit_map(container, "Labels", changes.container_labels)
    _edit_list(container, "Env", changes.env, _env_key)
    _edit_list(container, "Mounts", changes.mounts, lambda mount: mount["Target"])
    _edit_list(template, "Networks", changes.networks, lambda network: network["Target"])
    if changes.constraints != Edit():
        _edit_list(template.setdefault("Placement", {}), "Constraints", changes.constraints, str)
    if changes.ports != Edit():
        _edit_ports(spec.setdefault("EndpointSpec", {}), changes.ports)
    return spec


def _set(spec: Json, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place = spec
    for key in parents:
        if place.get(key) is None:
            place[key] = dict(_DEFAULTS.get(key, {}))
        place = place[key]
    place[last] = value


def _set_replicas(mode: Json, replicas: int) -> None:
    if "Replicated" in mode:
        mode["Replicated"]["Replicas"] = replicas
    elif "ReplicatedJob" in mode:
        mode["ReplicatedJob"] |= {"TotalCompletions": replicas, "MaxConcurrent": replicas}
    else:
        raise ConfigError("the number of replicas can only be set for a replicated service, not a global one")


def _edit_map(place: Json, key: str, edit: Edit) -> None:
    if edit == Edit():
        return
    kept = {name: value for name, value in (place.get(key) or {}).items() if name not in edit.remove}
    place[key] = kept | dict(pair(text, "label") for text in edit.add)


def _edit_list(place: Json, key: str, edit: Edit, identity: Any) -> None:
    """Takes away by identity, and adds in place of what has the same identity."""
    if edit == Edit():
        return
    items = {identity(item): item for item in place.get(key) or () if identity(item) not in edit.remove}
    items |= {identity(item): item for item in edit.add}
    place[key] = list(items.values())


def _env_key(text: str) -> str:
    return text.partition("=")[0]


def _edit_ports(endpoint: Json, edit: Edit) -> None:
    kept = [port for port in endpoint.get("Ports") or () if not _removed(port, edit.remove)]
    added: Iterable[PublishedPort] = edit.add
    for port in dict.fromkeys(added):
        clash = [old for old in kept if _clash(old, port)]
        if clash and clash[0]["TargetPort"] != port.target:
            raise ConfigError(
                f"port {port.published}/{port.protocol} is published twice, to {clash[0]['TargetPort']} "
                f"and to {port.target}: each published port leads to one target"
            )
        kept = [old for old in kept if old not in clash] + [port.spec()]
    endpoint["Ports"] = kept


def _removed(port: Json, targets: tuple[tuple[int, str], ...]) -> bool:
    return (port["TargetPort"], port.get("Protocol", "tcp")) in targets


def _clash(old: Json, port: PublishedPort) -> bool:
    same = (old.get("PublishedPort", 0), old.get("Protocol", "tcp")) == (port.published, port.protocol)
    return same and port.published != 0
