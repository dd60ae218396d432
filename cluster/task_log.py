"""What a service's tasks print, line by line, from all nodes."""

# types-docker leaves the SDK's methods for services without types:
# mypy: allow-untyped-calls

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import docker.errors

from meshlb.cluster import node
from meshlb.cluster.client import APIClient, translating
from meshlb.cluster.units import nanoseconds
from meshlb.errors import ConfigError, EngineError

_FRAME = struct.Struct(">BxxxL")
_STDERR = 2
_TASK = "com.docker.swarm.task.id"
_CONTEXT = (_TASK, "com.docker.swarm.node.id", "com.docker.swarm.service.id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines: `since` as the engine wants it, `tail` a number or all; `raw` as they come, unread."""

    follow: bool = False
    raw: bool = False
    details: bool = False  # with raw: the engine puts what it knows before each line
    since: str = ""
    tail: str = "all"
    timestamps: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a task, or whatever came when the service has a terminal (`task` is then empty)."""

    text: bytes
    stderr: bool = False
    task: str = ""
    timestamp: str = ""
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """What a task's lines are said to be from: `web.1` with a task on `node1`; `padding` aligns them."""

    name: str
    task: str
    node: str
    padding: int = 0


def since(text: str, now: datetime | None = None) -> str:
    """Seconds since 1970 from a time (`2026-01-02T13:23:37Z`), a span until now (`42m`) or such seconds."""
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text, re.ASCII):
        return text
    now = now or datetime.now(UTC)
    try:
        return str((now - timedelta(microseconds=nanoseconds(text) / 1000)).timestamp())
    except (ConfigError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f'"{text}" is not a time such as 2026-01-02T13:23:37Z, nor a span such as 42m'
        ) from None
    return str((moment if moment.tzinfo else moment.astimezone()).timestamp())


def read(api: APIClient, name: str, wanted: Wanted) -> Iterator[Line]:
    """The lines of a service, or of one task by its id."""
    with translating(api):
        path, terminal = _where(api, name)
        query = {
            "stdout": "1",
            "stderr": "1",
            "details": str(int(wanted.details or not wanted.raw)),
            "follow": str(int(wanted.follow)),
            "timestamps": str(int(wanted.timestamps)),
            "tail": wanted.tail,
        } | ({"since": wanted.since} if wanted.since else {})
        url = f"{api.base_url}/v{api.api_version}{path}/logs"
        # Who follows waits for as long as nothing is printed.
        timeout = None if wanted.follow else api.timeout
        with api.request("GET", url, params=query, stream=True, timeout=timeout) as response:
            if response.status_code >= 400:
                raise docker.errors.APIError("", response, _message(response.content))
            yield from _raw(response.raw) if terminal else _lines(response.raw, wanted)


def _message(content: bytes) -> str:
    return content.decode(errors="replace")


def _where(api: APIClient, name: str) -> tuple[str, bool]:
    """The path of the service or task, and whether it has a terminal, whose bytes come as they are."""
    try:
        service = api.inspect_service(name)
        return f"/services/{service['ID']}", _terminal(service["Spec"]["TaskTemplate"])
    except docker.errors.NotFound:
        pass
    try:
        task = api.inspect_task(name)
    except docker.errors.NotFound:
        raise EngineError(f"no such task or service: {name} (`meshlb service ls` lists services)") from None
    return f"/tasks/{task['ID']}", _terminal(task["Spec"])


def _terminal(template: Mapping[str, Any]) -> bool:
    return bool((template.get("ContainerSpec") or {}).get("TTY"))


def _raw(stream: Any) -> Iterator[Line]:
    while data := stream.read1(65536) if hasattr(stream, "read1") else stream.read(1):
        yield Line(data)


def _lines(stream: Any, wanted: Wanted) -> Iterator[Line]:
    while len(head := stream.read(_FRAME.size)) == _FRAME.size:
        kind, size = _FRAME.unpack(head)
        frame, stderr = stream.read(size), kind == _STDERR
        yield Line(frame, stderr) if wanted.raw else parsed(frame, stderr, wanted.timestamps)


def parsed(frame: bytes, stderr: bool, timestamps: bool) -> Line:
    """A frame of the engine's stream as a line (pure): `[time ]key=value,key=value text`."""
    when, _, rest = frame.partition(b" ") if timestamps else (b"", b"", frame)
    head, _, text = rest.partition(b" ")
    pairs = dict(part.partition("=")[::2] for part in head.decode(errors="replace").split(",") if part)
    plain = {unquote(key): unquote(value) for key, value in pairs.items()}
    task = plain.get(_TASK, "")
    details = tuple(sorted((key, value) for key, value in plain.items() if key not in _CONTEXT))
    return Line(text, stderr, task, when.decode(errors="replace"), details)


class Sources:
    """What the tasks of a log are called. Each is asked for once; one that is gone keeps its id."""

    def __init__(self, api: APIClient, name: str, *, resolve: bool) -> None:
        self._api, self._known = api, dict[str, Source]()
        self._resolve = resolve
        with translating(api):
            self._nodes = node.names(api.nodes()) if resolve else {}
            self._services: dict[str, str] = {}
            self._digits = self._widest(name)

    def _widest(self, name: str) -> int:
        """How many digits the number of the last replica has."""
        try:
            spec = self._api.inspect_service(name)["Spec"]
        except docker.errors.NotFound:
            return 1
        return len(str((spec["Mode"].get("Replicated") or {}).get("Replicas", 1)))

    def __getitem__(self, task: str) -> Source:
        if task not in self._known:
            with translating(self._api):
                self._known[task] = self._ask(task)
        return self._known[task]

    def _ask(self, task: str) -> Source:
        try:
            found = self._api.inspect_task(task)
        except docker.errors.NotFound:
            return Source("", task, "")
        host, service = found.get("NodeID", ""), found["ServiceID"]
        slot = str(found.get("Slot") or host)
        where = self._nodes.get(host, host)
        return Source(f"{self._service(service)}.{slot}", task, where, max(self._digits - len(slot), 0))

    def _service(self, service: str) -> str:
        if not self._resolve:
            return service
        if service not in self._services:
            self._services[service] = self._api.inspect_service(service)["Spec"]["Name"]
        return self._services[service]
