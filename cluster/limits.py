"""The syntax of what bounds and places a service's tasks: ulimits, generic resources, preferences (pure)."""

from __future__ import annotations

import re
from typing import Any

from meshlb.errors import ConfigError

# fmt: off
ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
    "rtprio", "rttime", "sigpending", "stack",
)
# fmt: on
_ULIMIT = re.compile(r"(\w+)=(-1|\d{1,18})(?::(-1|\d{1,18}))?", re.ASCII)
_RESOURCE = re.compile(r"([^=\s]+)=(\d{1,18})", re.ASCII)


def ulimit(text: str) -> dict[str, Any]:
    """A ulimit: `nofile=1024:4096`, soft and hard; one number is both; -1 is no limit."""
    match = _ULIMIT.fullmatch(text)
    if not match:
        raise ConfigError(f'"{text}" is not NAME=SOFT[:HARD], such as nofile=1024:4096')
    name, soft, hard = match[1], int(match[2]), int(match[3] or match[2])
    if name not in ULIMITS:
        raise ConfigError(f'"{name}" in "{text}" is not one of {", ".join(ULIMITS)}')
    if hard != -1 and (soft == -1 or soft > hard):
        raise ConfigError(f'"{text}" has a soft limit above its hard limit')
    return {"Name": name, "Hard": hard, "Soft": soft}


def generic_resource(text: str) -> dict[str, Any]:
    """A count of something that the nodes' engines offer (`node-generic-resources`): `gpu=2`."""
    match = _RESOURCE.fullmatch(text)
    if not match:
        raise ConfigError(f'"{text}" is not NAME=COUNT, such as gpu=2: a service asks for a number of them')
    return {"DiscreteResourceSpec": {"Kind": match[1], "Value": int(match[2])}}


def preference(text: str) -> dict[str, Any]:
    """How tasks spread: `spread=node.labels.zone`."""
    strategy, _, what = text.partition("=")
    if strategy.strip().lower() != "spread" or not what.strip():
        raise ConfigError(f'"{text}" is not spread=LABEL, such as spread=node.labels.zone')
    return {"Spread": {"SpreadDescriptor": what.strip()}}


_CONSTRAINT = re.compile(r"[\w.\-/]+\s*(==|!=)\s*\S.*", re.ASCII)


def constraint(text: str) -> str:
    """A placement constraint, as it is: `node.role==worker`."""
    if not _CONSTRAINT.fullmatch(text.strip()):
        raise ConfigError(f'"{text}" is not KEY==VALUE or KEY!=VALUE, such as node.role==worker')
    return text
