"""`meshlb service ls`, `ps`, `inspect`: what there is of services."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from meshlb.cli import complete
from meshlb.cli.columns import render
from meshlb.cli.inspect import how, show_objects
from meshlb.cli.parameters import filters, layout
from meshlb.cli.pretty_service import service_lines
from meshlb.cli.program import FAILED, Connection, Verb
from meshlb.cli.rows import SERVICE, TASK, service_cells, task_cells
from meshlb.cluster import service as services


@click.command("ls", cls=Verb, options_metavar="[OPTIONS]")
@filters
@layout
@click.option("-q", "--quiet", is_flag=True, help="Only display IDs")
@click.pass_obj
def ls(connection: Connection, filter_: dict[str, list[str]], format_: str, quiet: bool) -> None:
    """List services."""
    cells = [service_cells(row) for row in services.ls(connection.open(), filter_)]
    _list(SERVICE, cells, format_ or ("{{.ID}}" if quiet else ""))


@click.command("ps", cls=Verb, options_metavar="[OPTIONS]")
@filters
@layout
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@click.option("--no-resolve", is_flag=True, help="Do not map IDs to Names")
@click.option("-q", "--quiet", is_flag=True, help="Only display task IDs")
@click.argument(
    "names", metavar="SERVICE [SERVICE...]", nargs=-1, required=True, shell_complete=complete.services
)
@click.pass_context
def ps(
    ctx: click.Context,
    /,
    names: tuple[str, ...],
    *,
    filter_: dict[str, list[str]],
    format_: str,
    no_trunc: bool,
    no_resolve: bool,
    quiet: bool,
) -> None:
    """List the tasks of one or more services."""
    rows, problems = services.ps(ctx.obj.open(), names, filter_, resolve=not no_resolve)
    if len(problems) < len(set(names)):
        # docker's -q is never truncated here, unlike that of `service ls`
        whole = no_trunc or (quiet and not format_)
        cells = [task_cells(row, whole=whole) for row in rows]
        _list(TASK, cells, format_ or ("{{.ID}}" if quiet else ""))
    for problem in problems:
        click.echo(f"meshlb: {problem}", err=True)
    ctx.exit(FAILED if problems else 0)


@click.command("inspect", cls=Verb, options_metavar="[OPTIONS]")
@how
@click.argument(
    "names", metavar="SERVICE [SERVICE...]", nargs=-1, required=True, shell_complete=complete.services
)
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool, format_: str) -> None:
    """Display detailed information on one or more services.

    With --pretty also every policy of each published port, and what is wrong with the labels.
    """
    engine = ctx.obj.open()

    def lines(service: dict[str, Any]) -> list[str]:
        return service_lines(service, services.network_names(engine))

    show_objects(ctx, names, partial(services.inspect, engine), lines if pretty else None, format_)


def _list(headers: dict[str, str], cells: list[dict[str, str]], format_: str) -> None:
    click.echo(render(headers, cells, format_), nl=False)
