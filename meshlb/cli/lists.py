"""The flags of `service create` and `service update` that add to lists and take away from them.

`--env` of `create` is `--env-add` of `update`, beside `--env-rm`; so are all others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from meshlb.cli.parameters import Parsed
from meshlb.cluster import limits, mount, names, publish, reference
from meshlb.cluster.lists import Edit
from meshlb.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def _variable(text: str) -> str:
    """A variable for the containers; a name alone takes its value from our environment, as docker does."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ConfigError(f'"{text}" is not NAME=value')
    return f"{name}={os.environ[name]}" if not equals and name in os.environ else text


def _read_variables(path: str) -> tuple[str, ...]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"the file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the file {path} is not text in UTF-8") from error
    stripped = (line.strip() for line in lines)
    return tuple(_variable(line) for line in stripped if line and not line.startswith("#"))


def _named(text: str) -> str:
    if not text.partition("=")[0].strip():
        raise ConfigError(f'"{text}" is not KEY or KEY=VALUE')
    return text


def _text(text: str) -> str:
    if not text.strip():
        raise ConfigError("an empty text names nothing")
    return text


TEXT = Parsed(_text, "list")


@dataclass(frozen=True, slots=True)
class Flag:
    """One list: how an added entry and a removed one are read; `several` where one text names many."""

    help: str
    read: Parsed
    remove: Parsed = TEXT
    short: str = ""
    several: bool = False


_PREFERENCE = Parsed(limits.preference, "pref")
_NAMED = Parsed(_named, "list")

# By the list's name in cluster.lists.LISTS, in the order of the help.
FLAGS: dict[str, Flag] = {
    "publish": Flag(
        "Publish a port: 80:8000, 53:53/udp, 100-110:100-110, target=8000,published=80,mode=host",
        Parsed(publish.parse, "port"),
        Parsed(publish.parse_target, "target"),
        short="p",
        several=True,
    ),
    "env": Flag("Environment variables", Parsed(_variable, "list"), short="e"),
    "label": Flag("Service labels", _NAMED, short="l"),
    "container-label": Flag("Container labels", _NAMED),
    "network": Flag("Network attachments: backend, name=backend,alias=db", Parsed(mount.network, "network")),
    "mount": Flag("Filesystem mounts: type=volume,source=data,target=/data", Parsed(mount.mount, "mount")),
    "secret": Flag("Secrets for the service: key, source=key,target=k", Parsed(reference.parse, "secret")),
    "config": Flag("Configurations for the service", Parsed(reference.parse, "config")),
    "constraint": Flag("Placement constraints: node.role==worker", Parsed(limits.constraint, "list")),
    "placement-pref": Flag("Placement preferences: spread=node.labels.zone", _PREFERENCE, _PREFERENCE),
    "generic-resource": Flag("User defined resources: gpu=2", Parsed(limits.generic_resource, "list")),
    "ulimit": Flag("Ulimits: nofile=1024:4096", Parsed(limits.ulimit, "ulimit")),
    "sysctl": Flag("Sysctls: net.core.somaxconn=1024", _NAMED),
    "group": Flag("Supplementary user groups of the containers", TEXT),
    "dns": Flag("DNS servers of the containers", Parsed(names.server, "list")),
    "dns-option": Flag("DNS options of the containers", TEXT),
    "dns-search": Flag("DNS search domains of the containers", TEXT),
    "host": Flag("Host-to-IP mappings: db:10.0.0.5", Parsed(names.host, "list")),
}


def for_create(function: F) -> F:
    """Adds the flags of `service create`."""
    file = Parsed(_read_variables, "file")
    click.option("--env-file", multiple=True, type=file, help="Read in a file of variables")(function)
    for name, flag in reversed(FLAGS.items()):
        words = (f"--{name}", f"-{flag.short}") if flag.short else (f"--{name}",)
        click.option(*words, _add(name), multiple=True, type=flag.read, help=flag.help)(function)
    return function


def for_update(function: F) -> F:
    """Adds the flags of `service update`."""
    for name, flag in reversed(FLAGS.items()):
        what = _within_a_sentence(flag.help)
        click.option(
            f"--{name}-rm",
            _remove(name),
            multiple=True,
            type=flag.remove,
            help=f"Remove {what.partition(':')[0]}",
        )(function)
        click.option(
            f"--{name}-add", _add(name), multiple=True, type=flag.read, help=f"Add or update {what}"
        )(function)
    return function


def _within_a_sentence(text: str) -> str:
    """`Ulimits: …` as `ulimits: …`; `DNS servers` stay as they are."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _add(name: str) -> str:
    return f"add_{name.replace('-', '_')}"


def _remove(name: str) -> str:
    return f"remove_{name.replace('-', '_')}"


def edits(flags: Mapping[str, Any]) -> dict[str, Edit]:
    """What the flags add to each list and take away."""
    found = {}
    for name, flag in FLAGS.items():
        add = flags[_add(name)]
        if flag.several:
            add = tuple(entry for group in add for entry in group)
        if name == "env":
            add = (*(line for lines in flags.get("env_file", ()) for line in lines), *add)
        found[name] = Edit(tuple(add), tuple(_removed(name, entry) for entry in flags.get(_remove(name), ())))
    return {name: edit for name, edit in found.items() if edit != Edit()}


def _removed(name: str, entry: Any) -> Any:
    return entry["Spread"]["SpreadDescriptor"] if name == "placement-pref" else entry
