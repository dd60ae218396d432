"""Names that a shell may complete, of the engine and of the agent; who does not answer offers none."""

# types-docker leaves the SDK's methods for services without types:
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import click

from meshlb.cli import agent_view
from meshlb.errors import MeshError

if TYPE_CHECKING:
    from meshlb.cluster.client import APIClient

PATIENCE = 2  # seconds: somebody waits with a finger on the key
MOST = 500  # names

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def services(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The services' names."""
    return _of_engine(ctx, begun, lambda engine: (one["Spec"]["Name"] for one in engine.services()))


def scaled(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:
    """The same, for a number after an equals sign."""
    return [f"{name}=" for name in services(ctx, param, begun)]


def nodes(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The nodes' names."""
    return _of_engine(ctx, begun, lambda engine: (one["Description"]["Hostname"] for one in engine.nodes()))


def backends(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The tasks that this node's agent knows."""
    with suppress(MeshError):
        services = agent_view.default().status().get("services", ())
        found = (one for each in services for port in each["ports"] for one in port["backends"])
        return _begun(begun, (one["name"] or one["task"] for one in found))
    return []


def words(*known: str) -> Complete:
    """Words that are always the same."""
    return lambda _ctx, _param, begun: _begun(begun, known)


def _of_engine(ctx: click.Context, begun: str, names: Callable[[APIClient], Iterable[str]]) -> list[str]:
    from meshlb.cluster.client import connect, translating  # noqa: PLC0415  the SDK loads slowly

    given = ctx.find_root().params
    with suppress(MeshError, KeyError, TypeError):
        engine = connect(given.get("host") or "", given.get("context") or "", timeout=PATIENCE)
        with closing(engine), translating(engine):
            return _begun(begun, names(engine))
    return []


def _begun(begun: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(map(str, names)) if name.startswith(begun)][:MOST]
