"""The syntax of `-p`: a published port in docker's short and long form (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from meshlb.cluster.units import fields
from meshlb.errors import ConfigError

PROTOCOLS = ("tcp", "udp", "sctp")
MODES = ("ingress", "host")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """One port of a service: clients connect to `published` (0: Swarm chooses), tasks listen on `target`."""

    target: int
    published: int = 0
    protocol: str = "tcp"
    mode: str = "ingress"

    def spec(self) -> dict[str, Any]:
        """As the engine's EndpointSpec has it."""
        ports = {"TargetPort": self.target, "Protocol": self.protocol, "PublishMode": self.mode}
        return ports | {"PublishedPort": self.published} if self.published else ports


def parse(text: str) -> tuple[PublishedPort, ...]:
    """The ports that one `-p` names: `80:8000`, `8000`, `53:53/udp`, `100-110:100-110`, `target=…,…`."""
    return _long(text) if "=" in text else _short(text)


def parse_target(text: str) -> tuple[int, str, str]:
    """Target port, protocol and mode of `--publish-rm`: `8000`, `8000/udp`, and as docker takes it `80:8000`.

    `target=8000,mode=host` is another port than `8000`, which is the mesh's.
    """
    if "=" in text:
        port = _long(text)[0]
        return port.target, port.protocol, port.mode
    number, protocol = _protocol(text)
    first, last = _numbers(number.rpartition(":")[2], "target port", text)
    if first != last:
        raise ConfigError(f'"{text}" is not one target port, such as 8000 or 8000/udp')
    return first, protocol, MODES[0]


def _short(text: str) -> tuple[PublishedPort, ...]:
    numbers, protocol = _protocol(text)
    parts = numbers.split(":")
    if len(parts) > 2:
        raise ConfigError(
            f'"{text}" names an address, which Swarm does not support: it publishes on every address of '
            f'every node; write "{":".join(parts[-2:])}"'
        )
    targets = _numbers(parts[-1], "target port", text)
    if len(parts) == 1 or not parts[0]:
        return tuple(PublishedPort(target, 0, protocol) for target in range(targets[0], targets[1] + 1))
    published = _numbers(parts[0], "published port", text)
    return tuple(PublishedPort(*pair, protocol) for pair in _matched(targets, published, text))


def _matched(targets: tuple[int, int], published: tuple[int, int], text: str) -> list[tuple[int, int]]:
    first = range(targets[0], targets[1] + 1)
    second = range(published[0], published[1] + 1)
    if len(first) == 1:
        return [(targets[0], number) for number in second]
    if len(first) != len(second):
        raise ConfigError(
            f'"{text}" publishes {len(second)} ports to {len(first)}: the ranges must be as long'
        )
    return list(zip(first, second, strict=True))


def _protocol(text: str) -> tuple[str, str]:
    numbers, slash, protocol = text.partition("/")
    return numbers, _one_of(protocol.lower(), PROTOCOLS, "protocol", text) if slash else "tcp"


def _numbers(part: str, what: str, text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(part)
    first = int(match[1]) if match else 0
    last = int(match[2]) if match and match[2] else first
    if not 1 <= first <= last <= 65535:
        raise ConfigError(
            f'"{part}" in "{text}" is not a {what}: write PUBLISHED:TARGET with numbers from 1 to 65535, '
            "such as 80:8000"
        )
    return first, last


def _long(text: str) -> tuple[PublishedPort, ...]:
    values: dict[str, str] = {}
    for key, value in fields(text):
        if key not in ("target", "published", "protocol", "mode"):
            raise ConfigError(f'"{key}" in "{text}" is not one of target, published, protocol, mode')
        values[key] = value
    if "target" not in values:
        raise ConfigError(f'"{text}" lacks target=, the port that the tasks listen on')
    protocol = _one_of(values.get("protocol", "tcp").lower(), PROTOCOLS, "protocol", text)
    mode = _one_of(values.get("mode", "ingress").lower(), MODES, "mode", text)
    target = _single(values["target"], "target port", text)
    published = _single(values["published"], "published port", text) if "published" in values else 0
    return (PublishedPort(target, published, protocol, mode),)


def _single(part: str, what: str, text: str) -> int:
    first, last = _numbers(part, what, text)
    if first != last:
        raise ConfigError(f'"{part}" in "{text}" is a range: the long form takes one {what}')
    return first


def _one_of(value: str, allowed: tuple[str, ...], what: str, text: str) -> str:
    if value not in allowed:
        raise ConfigError(f'"{value}" in "{text}" is not a {what}: it is one of {", ".join(allowed)}')
    return value
