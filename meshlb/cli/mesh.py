"""`meshlb ps`: what this node's mesh serves."""

from __future__ import annotations

import click

from meshlb.cli import agent_view
from meshlb.cli.agent_view import AgentView
from meshlb.cli.columns import render
from meshlb.cli.mesh_rows import HEADERS, TABLE, Look, rows
from meshlb.cli.parameters import filters, layout
from meshlb.cli.program import Verb
from meshlb.errors import ConfigError

KEYS = {"port": "Port", "service": "Service", "node": "Node", "state": "State", "task": "Task"}


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@filters
@layout
@click.option("-q", "--quiet", is_flag=True, help="Only show the backends' addresses")
@agent_view.option
def ps(filter_: dict[str, list[str]], format_: str, quiet: bool, agent: AgentView) -> None:
    """Show what this node's mesh serves: every published port with its backends.

    \b
    Examples:
      meshlb ps
      meshlb ps --filter service=web --filter state=up
      meshlb ps --format '{{.Port}} {{.Backend}} {{.Active}}'
    """
    unknown = [key for key in filter_ if key not in KEYS]
    if unknown:
        raise ConfigError(f'--filter: "{unknown[0]}" is not one of {", ".join(KEYS)}')
    status = agent.status()
    found = [row for row in rows(Look(status, agent.counts())) if _passes(row, filter_)]
    titles = {name: HEADERS[name] for name in TABLE}
    click.echo(render(titles, found, format_ or ("{{.Backend}}" if quiet else ""), HEADERS), nl=False)
    for problem in status.get("problems", ()):
        click.echo(f"meshlb: {problem}", err=True)


def _passes(row: dict[str, str], wanted: dict[str, list[str]]) -> bool:
    """As docker's filters: one of the values of each key. A port may be named by its number alone."""
    return all(
        any(value in (row[KEYS[key]], row[KEYS[key]].partition("/")[0]) for value in values)
        for key, values in wanted.items()
    )
