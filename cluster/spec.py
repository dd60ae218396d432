"""A service's specification, as the engine's JSON, from docker's flags (pure).

To create is to change an empty specification: both verbs share one table of what each flag sets. What is
sent is what docker's own client sends, field by field.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from meshlb.cluster import capability
from meshlb.cluster.lists import LISTS, Edit, edit
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What the flags ask for: `values` are the given flags of PATHS, `lists` those of lists.LISTS.

    None and empty leave things alone. `log_driver` replaces a driver with all its options.
    """

    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    lists: Mapping[str, Edit] = field(default_factory=lambda: MappingProxyType({}))
    replicas: int | None = None
    max_concurrent: int | None = None
    force: bool = False
    no_healthcheck: bool = False
    log_driver: Json | None = None
    capabilities: capability.Change = capability.NOTHING


def created(name: str, mode: str, changes: Changes) -> Json:
    """The specification of a new service."""
    if mode not in MODES:
        raise ConfigError(f'--mode "{mode}" is not one of {", ".join(MODES)}')
    container = {"Init": False, "DNSConfig": {}}
    resources: Json = {"Limits": {}, "Reservations": {}}
    spec: Json = {
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": container,
            "Resources": resources,
            "Placement": {},
            "ForceUpdate": 0,
        },
        "Mode": {MODES[mode]: {}},
        "EndpointSpec": {"Mode": "vip"},
    }
    if name:
        spec["Name"] = name
    return changed(spec, changes)


def changed(spec: Json, changes: Changes) -> Json:
    """A copy of `spec` with the changes made."""
    spec = copy.deepcopy(spec)
    _check(spec["Mode"], changes)
    for name, value in changes.values.items():
        _set(spec, PATHS[name], value)
    _set_tasks(spec["Mode"], changes)
    template = spec["TaskTemplate"]
    _move_networks(spec, changes)
    _check_again(template["ContainerSpec"], changes)
    if changes.no_healthcheck:
        template["ContainerSpec"]["Healthcheck"] = {"Test": ["NONE"]}
    if changes.log_driver is not None:
        template["LogDriver"] = changes.log_driver
    if changes.force:
        template["ForceUpdate"] = template.get("ForceUpdate", 0) + 1
    capability.change(template["ContainerSpec"], changes.capabilities)
    for name, wanted in changes.lists.items():
        edit(spec, LISTS[name], wanted)
    return spec


def _move_networks(spec: Json, changes: Changes) -> None:
    """Services of old clients have theirs elsewhere, which counts while there are none in the template."""
    if changes.lists.get("network", Edit()) != Edit() and spec.get("Networks"):
        spec["TaskTemplate"].setdefault("Networks", spec.pop("Networks"))


def _check_again(container: Json, changes: Changes) -> None:
    """Whoever says how often to check no longer wants no check; the image says what."""
    if any(name.startswith("health-") for name in changes.values):
        check = container["Healthcheck"]
        if check.get("Test") == ["NONE"]:
            check["Test"] = []


def _set(spec: Json, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place = spec
    for key in parents:
        if place.get(key) is None:
            place[key] = dict(_DEFAULTS.get(key, {}))
        place = place[key]
    place[last] = value


def _check(mode: Json, changes: Changes) -> None:
    """What the engine would take and not do, or refuse in words that name no flag."""
    given = changes.values
    if changes.no_healthcheck and any(name.startswith("health-") for name in given):
        raise ConfigError("--no-healthcheck cannot be combined with other --health-… flags")
    if "Job" in "".join(mode) and any(name.startswith(("update-", "rollback-")) for name in given):
        raise ConfigError("--update-… and --rollback-… are not for jobs: a job runs once, it is not updated")


def _set_tasks(mode: Json, changes: Changes) -> None:
    if changes.max_concurrent is not None and "ReplicatedJob" not in mode:
        raise ConfigError("--max-concurrent is for replicated jobs alone (--mode replicated-job)")
    if changes.replicas is not None and "Global" in "".join(mode):
        raise ConfigError("the number of replicas can only be set for a replicated service, not a global one")
    if changes.replicas is not None and "Replicated" in mode:
        mode["Replicated"]["Replicas"] = changes.replicas
    if "ReplicatedJob" in mode:
        _set_job(mode["ReplicatedJob"], changes)


def _set_job(job: Json, changes: Changes) -> None:
    if changes.replicas is not None:
        job["TotalCompletions"] = changes.replicas
        job.setdefault("MaxConcurrent", changes.replicas)
    if changes.max_concurrent is not None:
        job["MaxConcurrent"] = changes.max_concurrent
