"""The text of a static file: a snapshot, or a ConfigError that names the line."""

from __future__ import annotations

import ipaddress
import json
import re

import properties

from meshlb.errors import ConfigError
from meshlb.model import Service, Snapshot, Task
from meshlb.policy import KEYS, LABEL_PREFIX
from meshlb.portfile import parse

WORDS = (
    *(f"\n{key} = " for key in KEYS),
    *(
        "[[port]]\n",
        "published = ",
        "protocol = ",
        "service = ",
        "backends = [",
        '"10.0.0.1:80"',
        '"[::1]:80"',
    ),
    *(
        "{ address = ",
        "weight = ",
        "port.",
        "0x",
        "1e9",
        "1979-05-27T07:32:00Z",
        '"""',
        "'''",
        "\\u001b",
        "nan",
    ),
)

_WHERE = re.compile(r"mesh\.toml(?::(\d+))?: .+")


def check(data: bytes) -> int | None:
    """-1 tells the fuzzer to forget the input: `static.load` has refused what is not UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return -1
    try:
        snapshot = parse(text, "mesh.toml")
    except ConfigError as error:
        _check_refusal(str(error), text)
    else:
        _check_snapshot(snapshot)
    return None


def _check_refusal(reason: str, text: str) -> None:
    properties.sentence(reason, 2_000)
    where = _WHERE.fullmatch(reason)
    assert where, reason
    assert 1 <= int(where[1] or 1) <= text.count("\n") + 1, reason


def _check_snapshot(snapshot: Snapshot) -> None:
    assert snapshot.services
    for service in snapshot.services:
        assert len(service.ports) == 1
        assert 1 <= service.ports[0].published <= 65535
        assert service.tasks
        assert len({task.id for task in service.tasks}) == len(service.tasks)
        addresses = [ipaddress.ip_address(task.address) for task in service.tasks]
        assert not any(address.is_multicast or address.is_unspecified for address in addresses)
    found = properties.table(snapshot)
    assert all("already published" in problem for problem in found.problems), found.problems
    assert parse("\n".join(map(_written, snapshot.services)), "again") == snapshot


def _written(service: Service) -> str:
    """The service as TOML: JSON's texts are TOML's, but for DEL."""
    lines = [
        "[[port]]",
        f"published = {service.ports[0].published}",
        f'protocol = "{service.ports[0].protocol}"',
        f"service = {json.dumps(service.name)}",
        f"backends = [{', '.join(map(_backend, service.tasks))}]",
    ]
    labels = [f"{key.removeprefix(LABEL_PREFIX)} = {json.dumps(text)}" for key, text in service.labels]
    return "\n".join(lines + labels)


def _backend(task: Task) -> str:
    host = f"[{task.address}]" if ipaddress.ip_address(task.address).version == 6 else task.address
    return f'{{ address = "{host}:{task.port}", weight = {task.weight} }}'
