"""Labels of a service: a policy and sentences, never an exception.

Input: the service's name, then lines; `key=value` is a label, anything else the address of a task.
"""

from __future__ import annotations

import properties

from meshlb.model import Port, Protocol, Service, Snapshot, Task
from meshlb.policy import (
    BALANCERS,
    CHECKS,
    KEYS,
    LABEL_PREFIX,
    LOCALITIES,
    PROXY_PROTOCOLS,
    from_settings,
)

PORTS = (Port(80, 8000), Port(53, 5353, Protocol.UDP))

WORDS = (
    *(f"\n{key}=" for key in KEYS),
    *BALANCERS,
    *LOCALITIES,
    *CHECKS,
    *PROXY_PROTOCOLS,
    "port.80.",
    "300ms",
    "1h",
)

Pairs = list[tuple[str, str]]


def check(data: bytes) -> None:
    """Both ways that a label's text goes: as a setting, and as one of a service in a table."""
    name, *lines = data.decode(errors="replace").split("\n")
    pairs = [(key, value) for key, equals, value in (line.partition("=") for line in lines) if equals]
    _check_settings(pairs)
    _check_table(name, pairs, [line for line in lines if "=" not in line])


def _check_settings(pairs: Pairs) -> None:
    policy, problems = from_settings(iter(pairs), "f: ")
    properties.policy(policy)
    assert len(problems) <= len(pairs)
    for problem in problems:
        properties.sentence(problem, 1_500)
        assert problem.startswith("f: ")
    middle = len(pairs) // 2
    early = from_settings(pairs[:middle], "f: ")
    late = from_settings(pairs[middle:], "f: ", early[0])
    assert (late[0], early[1] + late[1]) == (policy, problems), "settings are independent of each other"
    for pair in pairs[:2]:
        alone, told = from_settings([pair], "", policy)
        assert alone == policy or not told, "a bad value changes nothing"
        assert len(told) <= 1


def _check_table(name: str, pairs: Pairs, addresses: list[str]) -> None:
    labels = tuple(sorted({LABEL_PREFIX + key: value for key, value in pairs}.items()))
    tasks = tuple(Task(str(slot), f"{name}.{slot}", text) for slot, text in enumerate(addresses))
    found = properties.table(Snapshot((Service("id", name, PORTS, tasks, labels),)))
    assert len(found.entries) == len(PORTS), "no label closes a port"
    general = [(key.removeprefix(LABEL_PREFIX), value) for key, value in labels]
    alone = from_settings([pair for pair in general if not pair[0].startswith("port.")], "")[0]
    if not any(key.startswith("port.") for key, _ in general):
        assert all(entry.policy == alone for entry in found.entries)
