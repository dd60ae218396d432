"""`inspect` of whatever there is: JSON, a template for each, or lines for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from meshlb.cli.program import FAILED
from meshlb.cli.template import Template
from meshlb.errors import ConfigError, MeshError

F = TypeVar("F", bound=Callable[..., Any])
Json = dict[str, Any]


def how(function: F) -> F:
    """Adds the flags that say how."""
    click.option("--pretty", is_flag=True, help="Print the information in a human friendly format")(function)
    click.option(
        "-f", "--format", "format_", default="", metavar="FORMAT", help="json or TEMPLATE ({{.ID}} …)"
    )(function)
    return function


def show_objects(
    ctx: click.Context,
    names: Iterable[str],
    find: Callable[[str], Json],
    pretty: Callable[[Json], Sequence[str]] | None = None,
    format_: str = "",
) -> None:
    """Shows what `find` has by each name, and then a sentence for each that it has not; exits."""
    if pretty and format_:
        raise ConfigError("--format and --pretty exclude each other")
    template = Template(format_) if format_ not in ("", "json") else None
    found, problems = _found(names, find)
    if template:
        click.echo("".join(f"{template.fill(one)}\n" for one in found), nl=False)
    elif pretty:
        click.echo("\n".join("\n".join(pretty(one)) for one in found))
    else:
        shape: Json = {"separators": (",", ":")} if format_ else {"indent": 4}
        click.echo(json.dumps(found, ensure_ascii=False, **shape))
    for problem in problems:
        click.echo(f"meshlb: {problem}", err=True)
    ctx.exit(FAILED if problems else 0)


def _found(names: Iterable[str], find: Callable[[str], Json]) -> tuple[list[Json], list[MeshError]]:
    found, problems = [], []
    for name in names:
        try:
            found.append(find(name))
        except MeshError as error:
            problems.append(error)
    return found, problems
