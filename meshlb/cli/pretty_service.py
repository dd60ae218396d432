"""A service as `service inspect --pretty` shows it: docker's lines, and meshlb's policies (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from meshlb.cli.humanize import duration, exact_duration, size
from meshlb.cli.policy_lines import policy_lines
from meshlb.cluster.listing import mode, moment

Json = dict[str, Any]


def service_lines(service: Json, networks: Mapping[str, str], now: datetime | None = None) -> list[str]:
    """The lines; `networks` are names by id."""
    spec = service["Spec"]
    template = spec["TaskTemplate"]
    return [
        "",
        f"ID:\t\t{service['ID']}",
        f"Name:\t\t{spec.get('Name', '')}",
        *_labels(spec),
        *_mode(spec),
        *_update_status(service.get("UpdateStatus") or {}, now or datetime.now(UTC)),
        *_placement(template.get("Placement") or {}),
        *_way("UpdateConfig", "Update order:      ", spec.get("UpdateConfig")),
        *_way("RollbackConfig", "Rollback order:    ", spec.get("RollbackConfig")),
        *_container(template.get("ContainerSpec") or {}),
        *_log_driver(template.get("LogDriver") or {}),
        *_resources(template.get("Resources")),
        *_networks(template, networks),
        *_endpoint(service),
        *_health((template.get("ContainerSpec") or {}).get("Healthcheck") or {}),
        *policy_lines(service),
    ]


def _labels(spec: Json) -> Iterator[str]:
    labels = spec.get("Labels") or {}
    if labels:
        yield "Labels:"
    for name in sorted(labels):
        yield f" {name}{'=' if labels[name] else ''}{labels[name]}"


def _mode(spec: Json) -> Iterator[str]:
    words = mode(spec).split()
    yield f"Service Mode:\t{' '.join(word.capitalize() for word in words)}"
    if "Replicated" in spec["Mode"]:
        yield f" Replicas:\t{spec['Mode']['Replicated'].get('Replicas', 1)}"
    if job := spec["Mode"].get("ReplicatedJob"):
        yield f" Max Concurrent:\t{job.get('MaxConcurrent', 1)}"
        yield f" Total Completions:\t{job.get('TotalCompletions', 1)}"


def _update_status(status: Json, now: datetime) -> Iterator[str]:
    if not status.get("State"):
        return
    yield "UpdateStatus:"
    yield f" State:\t\t{status['State']}"
    for title, key in (("Started", "StartedAt"), ("Completed", "CompletedAt")):
        if status.get(key):
            yield f" {title}:\t{duration(now - moment(status[key])).lower()} ago"
    yield f" Message:\t{status.get('Message', '')}"


def _placement(placement: Json) -> Iterator[str]:
    yield "Placement:"
    if placement.get("Constraints"):
        yield f" Constraints:\t[{' '.join(placement['Constraints'])}]"
    spreads = [entry["Spread"]["SpreadDescriptor"] for entry in placement.get("Preferences") or ()]
    if spreads:
        yield f" Preferences:   [{' '.join(f'spread={spread}' for spread in spreads)}]"
    if placement.get("MaxReplicas"):
        yield f" Max Replicas Per Node:   {placement['MaxReplicas']}"


def _way(title: str, order: str, config: Json | None) -> Iterator[str]:
    if not config:
        return
    yield f"{title}:"
    yield f" Parallelism:\t{config.get('Parallelism', 0)}"
    if config.get("Delay"):
        yield f" Delay:\t\t{exact_duration(config['Delay'])}"
    yield f" On failure:\t{config.get('FailureAction', '')}"
    if config.get("Monitor"):
        yield f" Monitoring Period: {exact_duration(config['Monitor'])}"
    yield f" Max failure ratio: {config.get('MaxFailureRatio', 0):g}"
    yield f" {order}{config.get('Order', '')}"


def _container(container: Json) -> Iterator[str]:
    yield "ContainerSpec:"
    yield f" Image:\t\t{container.get('Image', '')}"
    for title, key in (("Args:\t\t", "Args"), ("Env:\t\t", "Env")):
        if container.get(key):
            yield f" {title}{' '.join(container[key])} "
    if container.get("Dir"):
        yield f" Dir:\t\t{container['Dir']}"
    if container.get("Init") is not None:
        yield f" Init:\t\t{str(container['Init']).lower()}"
    if container.get("User"):
        yield f" User: {container['User']}"
    yield from _kernel(container)
    yield from _mounts(container.get("Mounts") or ())
    yield from _files("Configs", "ConfigName", container.get("Configs") or ())
    yield from _files("Secrets", "SecretName", container.get("Secrets") or ())


def _kernel(container: Json) -> Iterator[str]:
    added, dropped = container.get("CapabilityAdd"), container.get("CapabilityDrop")
    if added or dropped:
        yield "Capabilities:"
    if added:
        yield f" Add: {', '.join(added)}"
    if dropped:
        yield f" Drop: {', '.join(dropped)}"
    yield from _block(
        "SysCtls", [f"{key}: {value}" for key, value in (container.get("Sysctls") or {}).items()]
    )
    limits = container.get("Ulimits") or ()
    yield from _block(
        "Ulimits", [f"{one['Name']}: {one.get('Soft', 0)}:{one.get('Hard', 0)}" for one in limits]
    )


def _block(title: str, lines: Iterable[str]) -> Iterator[str]:
    indented = [f" {line}" for line in lines]
    yield from (f"{title}:", *indented) if indented else ()


def _mounts(mounts: Iterable[Json]) -> Iterator[str]:
    for number, mount in enumerate(mounts):
        if number == 0:
            yield "Mounts:"
        yield f" Target:\t{mount['Target']}"
        yield f"  Source:\t{mount.get('Source', '')}"
        yield f"  ReadOnly:\t{str(mount.get('ReadOnly', False)).lower()}"
        yield f"  Type:\t\t{mount.get('Type', '')}"


def _files(title: str, name: str, entries: Iterable[Json]) -> Iterator[str]:
    for number, entry in enumerate(entries):
        if number == 0:
            yield f"{title}:"
        yield f" Target:\t{(entry.get('File') or {}).get('Name', '')}"
        yield f"  Source:\t{entry[name]}"


def _log_driver(driver: Json) -> Iterator[str]:
    if not driver.get("Name"):
        return
    yield "Log Driver:"
    yield f" Name:\t\t{driver['Name']}"
    if driver.get("Options"):
        yield " LogOpts:"
    for key, value in (driver.get("Options") or {}).items():
        yield f"  {key}:       {value}"


def _resources(resources: Json | None) -> Iterator[str]:
    if resources is None:
        return
    yield "Resources:"
    for title, key in (("Reservations", "Reservations"), ("Limits", "Limits")):
        found = resources.get(key) or {}
        if found.get("NanoCPUs") or found.get("MemoryBytes"):
            yield f" {title}:"
        if found.get("NanoCPUs"):
            yield f"  CPU:\t\t{found['NanoCPUs'] / 10**9:g}"
        if found.get("MemoryBytes"):
            yield f"  Memory:\t{size(found['MemoryBytes'])}"


def _networks(template: Json, names: Mapping[str, str]) -> Iterator[str]:
    targets = [entry["Target"] for entry in template.get("Networks") or ()]
    if targets:
        yield f"Networks: {' '.join(names.get(target, target) for target in targets)} "


def _endpoint(service: Json) -> Iterator[str]:
    yield f"Endpoint Mode:\t{(service['Spec'].get('EndpointSpec') or {}).get('Mode', '')}"
    ports = (service.get("Endpoint") or {}).get("Ports") or ()
    if ports:
        yield "Ports:"
    for port in ports:
        yield f" PublishedPort = {port.get('PublishedPort', 0)}"
        yield f"  Protocol = {port['Protocol']}"
        yield f"  TargetPort = {port['TargetPort']}"
        yield f"  PublishMode = {port.get('PublishMode', '')}"


def _health(check: Json) -> Iterator[str]:
    if not check:
        return
    yield " Healthcheck:"
    if check.get("Interval"):
        yield f"  Interval = {exact_duration(check['Interval'])}"
    if check.get("Retries"):
        yield f"  Retries = {check['Retries']}"
    if check.get("StartPeriod"):
        yield f"  StartPeriod =\t{exact_duration(check['StartPeriod'])}"
    if check.get("Timeout"):
        yield f"  Timeout =\t{exact_duration(check['Timeout'])}"
    if check.get("Test"):
        yield from ("  Tests:", *(f"\t Test = {word}" for word in check["Test"]))
