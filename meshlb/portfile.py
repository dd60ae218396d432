"""The text of a static file, published ports with their backends, becomes a snapshot. Pure.

    [[port]]
    published = 80
    backends = ["127.0.0.1:8001", { address = "[::1]:8002", weight = 3 }]

Every entry is a service with one port; the other keys are those of `meshlb.policy`. A text is taken as a
whole or refused with the file's name, the line and the reason.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from meshlb.errors import ConfigError
from meshlb.model import Port, Protocol, Service, Snapshot, Task, endpoint
from meshlb.policy import KEYS, LABEL_PREFIX, from_settings
from meshlb.ports.addresses import ANYWHERE, LOOPBACK, chosen
from meshlb.text import printable, shown
from meshlb.weights import HEAVIEST

_LONGEST_SYNTAX = 300  # characters of what tomllib says; it repeats keys
_OWN_KEYS = ("published", "protocol", "service", "backends")
_HEADER = re.compile(r"""\s*\[\[\s*(port|"port"|'port')\s*\]\]""")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)  # what Swarm allows as a service's name
_AT_LINE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse(text: str, name: str, own: frozenset[str] = LOOPBACK) -> Snapshot:
    """The snapshot of a file's text. `name` is the file's name in errors, `own` this node's addresses."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(str(error), text, name)) from error
    except ValueError as error:  # int()'s
        raise ConfigError(f"{name}: not TOML that a port needs: a number with too many digits") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: not TOML that a port needs: nested too deeply") from error
    entries = _entries(document, text, name)
    return Snapshot(tuple(_service(entry, place, own) for entry, place in entries))


@dataclass(frozen=True, slots=True)
class _Place:
    """The lines of one `[[port]]` entry. tomllib tells no positions, so they are searched when asked for."""

    name: str
    lines: Sequence[str] = ()
    first: int = 0  # number of lines[0] in the file; 0 where unknown

    def error(self, reason: str, key: str = "", text: str = "") -> ConfigError:
        """A ConfigError at the line of `key`, or further down at the first line that contains `text`."""
        where = f"{self.name}:{self._line(key, text)}" if self.first else self.name
        return ConfigError(f"{where}: {reason}")

    def _line(self, key: str, text: str) -> int:
        assignment = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""") if key else _HEADER
        at = next((index for index, line in enumerate(self.lines) if assignment.match(line)), 0)
        value = (index for index, line in enumerate(self.lines) if index >= at and text in line)
        return self.first + (next(value, at) if text else at)


def _entries(document: dict[str, Any], text: str, name: str) -> list[tuple[dict[str, Any], _Place]]:
    whole = _Place(name, text.split("\n"), 1)  # as tomllib counts lines
    for key in document:
        if key != "port":
            raise whole.error(f'"{shown(key)}" is not known here; a file consists of [[port]] entries', key)
    entries = document.get("port", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise whole.error('"port" must be written as [[port]], once for each published port', "port")
    if not entries:
        # Also what an editor's truncated file looks like: never a reason to close every port.
        raise ConfigError(f"{name}: no port is published; add a [[port]] entry with published and backends")
    return list(zip(entries, _places(whole, len(entries)), strict=True))


def _places(whole: _Place, count: int) -> list[_Place]:
    starts = [index for index, line in enumerate(whole.lines) if _HEADER.match(line)]
    if len(starts) != count:  # written as an inline array, or a text that looks like a header
        return [_Place(whole.name)] * count
    ends = [*starts[1:], len(whole.lines)]
    return [
        _Place(whole.name, whole.lines[start:end], start + 1) for start, end in zip(starts, ends, strict=True)
    ]


def _service(entry: dict[str, Any], place: _Place, own: frozenset[str]) -> Service:
    _check_keys(entry, place)
    port = _port(entry, place)
    udp = "-udp" if port.protocol is Protocol.UDP else ""
    name = entry.get("service", f"port-{port.published}{udp}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise place.error(
            f"service = {_shown(name)}: use up to 63 letters, digits, '.', '_' and '-'", "service"
        )
    settings = _settings(entry, place)
    labels = tuple(sorted((LABEL_PREFIX + key, text) for key, text in settings))
    tasks = _tasks(entry, port, place)
    _check_circles(tasks, port, from_settings(settings, "")[0].listen, own, place)
    return Service(f"{name}:{port}", name, (port,), tasks, labels)


def _check_keys(entry: dict[str, Any], place: _Place) -> None:
    known = (*_OWN_KEYS, *KEYS)
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise place.error(f'unknown key "{shown(key)}"; {hint}known are {", ".join(known)}', key)
    for key in ("published", "backends"):
        if key not in entry:
            raise place.error(f"this [[port]] has no {key}; add it")


def _port(entry: dict[str, Any], place: _Place) -> Port:
    published, protocol = entry["published"], entry.get("protocol", "tcp")
    if type(published) is not int or not 1 <= published <= 65535:
        raise place.error(f"published = {_shown(published)}: not a port number from 1 to 65535", "published")
    if protocol not in ("tcp", "udp"):
        raise place.error(f'protocol = {_shown(protocol)}: not "tcp" or "udp"', "protocol")
    # Every backend names its own port, so the target says nothing here.
    return Port(published, published, Protocol(protocol))


def _settings(entry: dict[str, Any], place: _Place) -> list[tuple[str, str]]:
    settings = [(key, _text(entry[key], key, place)) for key in entry if key in KEYS]
    for setting in settings:
        for problem in from_settings([setting], "")[1]:
            raise place.error(problem, setting[0])
    return settings


def _text(value: Any, key: str, place: _Place) -> str:
    """A value as a label would have it: `true`, `5` and `"300ms"` are texts there, and lists have commas."""
    if KEYS[key].many and isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return shown(value)
    raise place.error(f"{key} = {_shown(value)}: must be one value, such as a text or a number", key)


def _tasks(entry: dict[str, Any], port: Port, place: _Place) -> tuple[Task, ...]:
    backends = entry["backends"]
    if not isinstance(backends, list) or not backends:
        raise place.error(
            f'backends = {_shown(backends)}: must be a list such as ["10.0.0.1:8000"]', "backends"
        )
    tasks: dict[str, Task] = {}
    for backend in backends:
        task = _weighted(backend, place)
        if task.id in tasks:
            raise place.error(f'backend "{task.name}" is listed twice', "backends", task.name)
        tasks[task.id] = task
    return tuple(tasks.values())


def _weighted(backend: Any, place: _Place) -> Task:
    """A backend, written as its address alone or as a table with its weight."""
    if not isinstance(backend, dict):
        return _task(backend, place)
    if unknown := backend.keys() - {"address", "weight"}:
        raise place.error(
            f"backend {_shown(backend)}: unknown key {shown(min(unknown))}; known are address, weight",
            "backends",
        )
    weight = backend.get("weight", 1)
    if type(weight) is not int or not 1 <= weight <= HEAVIEST:
        raise place.error(f"backend weight = {_shown(weight)}: not a number from 1 to {HEAVIEST}", "backends")
    return replace(_task(backend.get("address"), place), weight=weight)


def _task(text: Any, place: _Place) -> Task:
    try:
        return _parsed(text if isinstance(text, str) else "")
    except _WrongBackend as error:
        raise place.error(f"backend {_shown(text)}: {error}", "backends", shown(text)) from error


class _WrongBackend(Exception):  # noqa: N818  # a sentence without its place
    pass


@lru_cache(1 << 15)
def _parsed(text: str) -> Task:
    """A backend by its address alone. Of a file that is read again most are known."""
    host, number = _split(text)
    try:
        address = _address(host)
    except ValueError as error:
        raise _WrongBackend(
            f"{_shown(host)} is not an IP address; names are not resolved, write the address"
        ) from error
    if "%" in host or address.is_multicast or address.is_unspecified:
        raise _WrongBackend(f"no connection can be made to {shown(host)}")
    name = endpoint(str(address), number)
    return Task(name, name, str(address), port=number)


@lru_cache(4096)
def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 one that is mapped is one of IPv4. Many ports have backends on the same hosts."""
    address = ipaddress.ip_address(host)
    return getattr(address, "ipv4_mapped", None) or address


def _check_circles(
    tasks: Sequence[Task], port: Port, listen: Sequence[str], own: frozenset[str], place: _Place
) -> None:
    """A backend that is our own listener: one client would take all descriptors by itself."""
    listening = chosen(listen, own) if listen else ANYWHERE
    for task in tasks:
        if task.port == port.published and _is_ours(task.address, listening, own):
            raise place.error(
                f'backend "{task.name}" is the published port itself: a circle, as this node listens there; '
                "name the server's own address and port, or keep the published port off that address with "
                "listen",
                "backends",
                task.name,
            )


def _is_ours(address: str, listening: Sequence[str], own: frozenset[str]) -> bool:
    """Whether one of our listeners takes what is sent to an address."""
    its = ipaddress.ip_address(address)
    anywhere = ANYWHERE[its.version == 6]
    return address in listening or (anywhere in listening and (its.is_loopback or address in own))


def _split(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})", text, re.ASCII)
    if not match or not 1 <= int(match[3]) <= 65535:
        raise _WrongBackend("must be ADDRESS:PORT in quotes, an IPv6 address in brackets")
    return match[1] or match[2], int(match[3])


def _shown(value: Any) -> str:
    return f'"{shown(value, 80)}"' if isinstance(value, str) else shown(value, 80)


def _syntax(message: str, text: str, name: str) -> str:
    match = _AT_LINE.search(message)
    if not match:
        return f"{name}: {printable(message, _LONGEST_SYNTAX)}"
    line = match[1] or text.removesuffix("\n").count("\n") + 1
    column = f" (column {match[2]})" if match[2] else " (at the end of the file)"
    return f"{name}:{line}: {printable(message[: match.start()], _LONGEST_SYNTAX)}{column}"
