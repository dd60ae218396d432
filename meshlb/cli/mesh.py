"""`meshlb ps`: what this node's mesh serves."""

from __future__ import annotations

import time

import click

from meshlb.cli import agent_view
from meshlb.cli.agent_view import AgentView
from meshlb.cli.columns import render
from meshlb.cli.mesh_rows import HEADERS, rows
from meshlb.cli.parameters import filters, layout
from meshlb.cli.program import Verb
from meshlb.errors import ConfigError

MOMENT = 1.0  # seconds over which connections are counted for their rate
KEYS = {"port": "Port", "service": "Service", "node": "Node", "state": "State", "task": "Task"}


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@filters
@layout
@click.option("-q", "--quiet", is_flag=True, help="Only show the backends' addresses")
@agent_view.option
def ps(filter_: dict[str, list[str]], format_: str, quiet: bool, agent: AgentView) -> None:
    """Show what this node's mesh serves: every published port with its backends.

    RATE is what a second of looking shows; who asks for none (-q, --format) does not wait.

    \b
    Examples:
      meshlb ps
      meshlb ps --filter service=web --filter state=up
      meshlb ps --format '{{.Port}} {{.Backend}} {{.Active}}'
    """
    unknown = [key for key in filter_ if key not in KEYS]
    if unknown:
        raise ConfigError(f'--filter: "{unknown[0]}" is not one of {", ".join(KEYS)}')
    shown = format_ or ("{{.Backend}}" if quiet else "")
    render(HEADERS, (), shown)  # a mistake in it is told at once
    look, before = agent.look(), None
    if _tells_rate(shown) and look.counts.get("backends"):
        time.sleep(MOMENT)
        before, look = look, agent.look()
    found = [row for row in rows(look, before) if _passes(row, filter_)]
    click.echo(render(HEADERS, found, shown), nl=False)
    for problem in look.status.get("problems", ()):
        click.echo(f"meshlb: {problem}", err=True)


def _tells_rate(shown: str) -> bool:
    return shown in ("", "table", "json", "{{json .}}") or ".Rate" in shown


def _passes(row: dict[str, str], wanted: dict[str, list[str]]) -> bool:
    """As docker's filters: one of the values of each key. A port may be named by its number alone."""
    return all(
        any(value in (row[KEYS[key]], row[KEYS[key]].partition("/")[0]) for value in values)
        for key, values in wanted.items()
    )
