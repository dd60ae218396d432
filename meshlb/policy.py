"""How a published port balances and behaves: every key, its meaning, its default and its parser.

A key has one name everywhere: the label `meshlb.<key>` (or `meshlb.port.<published>.<key>` for one port
of the service), the flag `--<key>`, the key in a static file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

LABEL_PREFIX = "meshlb."
BALANCERS = ("roundrobin",)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Policy:
    """The behaviour of one published port. Durations are seconds."""

    balance: str = "roundrobin"
    connect_timeout: float = 0.3  # one attempt, while another backend is left to try


@dataclass(frozen=True, slots=True)
class Key:
    """One policy key: how its text becomes a value, and what is allowed, in words."""

    field: str
    parse: Callable[[str], Any]
    allowed: str


def parse_duration(text: str, lowest: float, highest: float) -> float:
    """Seconds from `300ms`, `1.5s`, `2m` or `1h`; ValueError outside of [lowest, highest]."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(text)
    seconds = float(match[1]) * _UNITS[match[2]]
    if not lowest <= seconds <= highest:
        raise ValueError(text)
    return seconds


def _parse_balance(text: str) -> str:
    if text not in BALANCERS:
        raise ValueError(text)
    return text


KEYS: dict[str, Key] = {
    "balance": Key("balance", _parse_balance, f"one of {', '.join(BALANCERS)}"),
    "connect-timeout": Key(
        "connect_timeout", lambda text: parse_duration(text, 0.01, 60), "a duration from 10ms to 60s"
    ),
}


def from_settings(
    settings: Iterable[tuple[str, str]], where: str, base: Policy | None = None
) -> tuple[Policy, tuple[str, ...]]:
    """The policy that `key, text` pairs describe, and a sentence for every pair that cannot be used.

    `where` names the place for the reader, for example `service web: label meshlb.`; the key follows it
    directly. A bad pair leaves its key at the value in `base`.
    """
    policy, problems = base or Policy(), []
    for name, text in settings:
        key = KEYS.get(name)
        if key is None:
            problems.append(f"{where}{name}: unknown key; known are {', '.join(KEYS)}")
            continue
        try:
            policy = replace(policy, **{key.field: key.parse(text)})
        except ValueError:
            problems.append(f'{where}{name}: "{text}" is not {key.allowed}')
    return policy, tuple(problems)
