"""The flags that set policies: every key of policy.py, for all ports of a service or for one of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from meshlb.cli import complete
from meshlb.cli.parameters import Parsed
from meshlb.cluster.lists import Edit
from meshlb.errors import ConfigError
from meshlb.policy import KEYS, LABEL_PREFIX, Key

F = TypeVar("F", bound=Callable[..., Any])

_ONE = re.compile(r"(?:(\d{1,5}):)?([^=:]+)", re.ASCII)


def for_create(function: F) -> F:
    """Adds a flag for each key, and `--policy` for one port."""
    for name, key in reversed(KEYS.items()):
        help_ = f"{key.meaning[0].upper()}{key.meaning[1:]}: {key.allowed} (label {LABEL_PREFIX}{name})"
        known = complete.words(*_choices(key))
        click.option(
            f"--{name}", f"policy_{key.field}", type=_policy(name, key), help=help_, shell_complete=known
        )(function)
    click.option(
        "--policy",
        "policies",
        multiple=True,
        type=Parsed(_of_port, "PORT:KEY=VALUE"),
        help="Set a policy of one published port: 443:balance=source",
    )(function)
    return function


def for_update(function: F) -> F:
    """Adds the same, and `--policy-rm`."""
    click.option(
        "--policy-rm",
        "policies_removed",
        multiple=True,
        type=Parsed(_removed, "[PORT:]KEY"),
        help="Give a policy its default again: balance, 443:balance",
    )(function)
    return for_create(function)


def edited(flags: Mapping[str, Any], lists: Mapping[str, Edit]) -> dict[str, Edit]:
    """The edits of lists, with the labels that policies are."""
    own = (flags[f"policy_{key.field}"] for key in KEYS.values())
    add = (*(label for label in own if label is not None), *flags["policies"])
    remove = flags.get("policies_removed", ())
    if not add and not remove:
        return dict(lists)
    labels = lists.get("label", Edit())
    return {**lists, "label": Edit((*labels.add, *add), (*labels.remove, *remove))}


def _choices(key: Key) -> list[str]:
    """The values of a key that takes one of a few words."""
    few = key.allowed.startswith("one of ")
    return key.allowed.removeprefix("one of ").split(", ") if few else []


def _policy(name: str, key: Key) -> Parsed:
    return Parsed(lambda text: f"{LABEL_PREFIX}{name}={_checked(key, text)}", key.kind)


def _checked(key: Key, text: str) -> str:
    try:
        key.parse(text)
    except ValueError as error:
        raise ConfigError(f'"{text}" is not {key.allowed}') from error
    return text


def _of_port(text: str) -> str:
    where, equals, value = text.partition("=")
    port, name = _named(where, text)
    if not port or not equals:
        raise ConfigError(f'"{text}" is not PORT:KEY=VALUE, such as 443:balance=source')
    return f"{LABEL_PREFIX}port.{port}.{name}={_checked(KEYS[name], value)}"


def _removed(text: str) -> str:
    port, name = _named(text, text)
    return f"{LABEL_PREFIX}port.{port}.{name}" if port else f"{LABEL_PREFIX}{name}"


def _named(where: str, text: str) -> tuple[str, str]:
    match = _ONE.fullmatch(where)
    if not match or (match[1] and not 1 <= int(match[1]) <= 65535):
        raise ConfigError(f'"{text}" does not name a policy: write KEY or PORT:KEY, such as 443:balance')
    if match[2] not in KEYS:
        raise ConfigError(f'"{match[2]}" in "{text}" is not a policy; known are {", ".join(KEYS)}')
    return match[1] or "", match[2]
