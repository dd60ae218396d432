"""Parameters that several verbs share, and flags whose text the cluster layer reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from meshlb.cluster import units
from meshlb.errors import ConfigError, MeshError

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # not generic before click 8.3


class Parsed(_Type):
    """A flag's value, read by a function that says with ConfigError what is wrong with it."""

    def __init__(self, parse: Callable[[str], Any], name: str) -> None:
        self._parse = parse
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; click's usage error in place of ConfigError."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ConfigError as error:
            self.fail(str(error), param, ctx)


DURATION = Parsed(units.nanoseconds, "duration")
COUNT = Parsed(units.count, "number")


def _filter(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(f'"{text}" is not key=value, such as name=web')
    return key, value


def _gather(_ctx: click.Context, _param: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> Any:
    gathered: dict[str, list[str]] = {}
    for key, value in pairs:
        gathered.setdefault(key, []).append(value)
    return gathered


filters = click.option(
    "-f",
    "--filter",
    "filter_",
    multiple=True,
    type=Parsed(_filter, "key=value"),
    callback=_gather,
    help="Only those that match, such as name=web",
)
layout = click.option(
    "--format", "format_", default="", metavar="FORMAT", help="json, table TEMPLATE or TEMPLATE ({{.ID}} …)"
)


def each(ctx: click.Context, names: Iterable[str], do: Callable[[str], None]) -> None:
    """Does it for each name, whatever becomes of the others, says what went wrong, and exits."""
    failed = False
    for name in names:
        try:
            do(name)
        except MeshError as error:
            click.echo(f"meshlb: {error}", err=True)
            failed = True
    ctx.exit(1 if failed else 0)
