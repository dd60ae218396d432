"""The flags that `init` and `update` share: the swarm's specification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from meshlb.cli.parameters import COUNT, DURATION, Parsed
from meshlb.cluster import swarm_spec

F = TypeVar("F", bound=Callable[..., Any])
EXTERNAL = Parsed(swarm_spec.external_ca, "external-ca")

cert_expiry = click.option(
    "--cert-expiry", type=DURATION, help="Validity period for node certificates [default: 2160h]"
)
external_ca = click.option(
    "--external-ca",
    multiple=True,
    type=EXTERNAL,
    help="Certificate signing endpoints: protocol=cfssl,url=https://…,cacert=FILE",
)
_OPTIONS = (
    cert_expiry,
    click.option("--dispatcher-heartbeat", type=DURATION, help="Dispatcher heartbeat period [default: 5s]"),
    external_ca,
    click.option("--max-snapshots", type=COUNT, help="Number of additional Raft snapshots to retain"),
    click.option(
        "--snapshot-interval", type=COUNT, help="Log entries between Raft snapshots [default: 10000]"
    ),
    click.option("--task-history-limit", type=COUNT, help="Task history retention limit [default: 5]"),
)


def specification(function: F) -> F:
    """Adds the flags."""
    for option in reversed(_OPTIONS):
        option(function)
    return function


def values(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, by the names of swarm_spec.PATHS."""
    given = {name: flags.get(name.replace("-", "_")) for name in swarm_spec.PATHS}
    return {name: value for name, value in given.items() if value not in (None, ())}
