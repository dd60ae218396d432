"""`meshlb node`: the swarm's nodes."""

from __future__ import annotations

from typing import Any

import click

from meshlb.cli.columns import render
from meshlb.cli.parameters import filters, layout
from meshlb.cli.program import Connection, Verbs
from meshlb.cluster import node as nodes

HEADERS = {
    "ID": "ID",
    "Hostname": "HOSTNAME",
    "Status": "STATUS",
    "Availability": "AVAILABILITY",
    "ManagerStatus": "MANAGER STATUS",
    "EngineVersion": "ENGINE VERSION",
}


@click.group(cls=Verbs)
def node() -> None:
    """The swarm's nodes."""


@node.command("ls")
@filters
@layout
@click.option("-q", "--quiet", is_flag=True, help="Only show IDs")
@click.pass_obj
def ls(connection: Connection, filter_: dict[str, list[str]], format_: str, quiet: bool) -> None:
    """List the nodes of the swarm."""
    rows = nodes.ls(connection.open(), filter_)
    if quiet and not format_:
        click.echo("".join(f"{row.id}\n" for row in rows), nl=False)
        return
    click.echo(render(HEADERS, [_cells(row, mark=format_ != "json") for row in rows], format_), nl=False)


def _cells(row: nodes.NodeRow, *, mark: bool) -> dict[str, Any]:
    cells = {
        "ID": f"{row.id} {'*' if row.itself else ' '}" if mark else row.id,
        "Hostname": row.name,
        "Status": row.status,
        "Availability": row.availability,
        "ManagerStatus": row.manager,
        "EngineVersion": row.engine,
    }
    return cells if mark else cells | {"Self": row.itself}
