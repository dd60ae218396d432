"""Changes of JSON that leave it JSON: most mutations of its bytes only make it unreadable."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 80, 65535, 65536, 1 << 53, 10**400, 1.5, float("nan"), "", "x", "tcp"),
    *("udp", "sctp", "ingress", "10.0.0.9", "0.0.0.0", "::1", "fe80::1%\n", "\x1b[2J", "\ud800", "\u202e"),
    *("x" * 300, [], {}, [[]], {"": None}, "Target: 1, Publish: 2", "meshlb.port.80.hold", "web", "active"),
)


def mutate(data: bytes, most: int, seed: int) -> bytes | None:
    """Another JSON text; None when `data` is none or nested too deeply, or when the new one is too long."""
    try:
        text = json.dumps(
            _often_changed(json.loads(data), random.Random(seed)), separators=(",", ":")
        ).encode()
    except (ValueError, RecursionError):
        return None
    return text if len(text) <= most else None


def _often_changed(found: Any, chance: random.Random) -> Any:
    for _ in range(chance.randint(1, 4)):
        found = _changed(found, chance)
    return found


def _changed(found: Any, chance: random.Random) -> Any:
    places = _places(found)
    if not places:
        return copy.deepcopy(chance.choice(STRANGE))
    container, key = chance.choice(places)
    other, its_key = chance.choice(places)
    what = chance.randrange(5)
    if what == 0:
        del container[key]
    elif what == 1:
        container[key] = copy.deepcopy(chance.choice(STRANGE))
    elif what == 2:
        container[key] = copy.deepcopy(other[its_key])
    elif isinstance(container, list):
        container.append(copy.deepcopy(other[its_key]))
    else:
        container[_name(chance, its_key)] = copy.deepcopy(container[key])
    return found


def _name(chance: random.Random, key: Any) -> str:
    strange = chance.choice(STRANGE)
    return strange if isinstance(strange, str) and chance.random() < 0.5 else str(key)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in `value` with each of its keys."""
    found, containers = [], [value]
    while containers:
        container = containers.pop()
        keys = (
            list(container)
            if isinstance(container, dict)
            else range(len(container))
            if isinstance(container, list)
            else ()
        )
        found += [(container, key) for key in keys]
        containers += [container[key] for key in keys]
    return found
