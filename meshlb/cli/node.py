"""`meshlb node`: the swarm's nodes."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from meshlb.cli import complete
from meshlb.cli.columns import render
from meshlb.cli.inspect import how, show_objects
from meshlb.cli.lists import TEXT
from meshlb.cli.parameters import each, filters, layout
from meshlb.cli.pretty_node import node_lines
from meshlb.cli.program import FAILED, Connection, Verbs
from meshlb.cli.rows import TASK, task_cells
from meshlb.cluster import node as nodes
from meshlb.cluster.lists import Edit

HEADERS = {
    "ID": "ID",
    "Hostname": "HOSTNAME",
    "Status": "STATUS",
    "Availability": "AVAILABILITY",
    "ManagerStatus": "MANAGER STATUS",
    "EngineVersion": "ENGINE VERSION",
}
MORE = {"TLSStatus": "TLS STATUS", "Self": ""}  # for templates
names_argument = click.argument(
    "names", metavar="NODE [NODE...]", nargs=-1, required=True, shell_complete=complete.nodes
)


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
    cells = [_cells(row, mark=format_ in ("", "table")) for row in rows]
    click.echo(render(HEADERS, cells, format_, MORE), nl=False)


def _cells(row: nodes.NodeRow, *, mark: bool) -> dict[str, Any]:
    return {
        "ID": f"{row.id} {'*' if row.itself else ' '}" if mark else row.id,
        "Hostname": row.name,
        "Status": row.status,
        "Availability": row.availability,
        "ManagerStatus": row.manager,
        "EngineVersion": row.engine,
        "TLSStatus": row.tls,
        "Self": row.itself,
    }


@node.command("ps", options_metavar="[OPTIONS]")
@filters
@layout
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@click.option("--no-resolve", is_flag=True, help="Do not map IDs to Names")
@click.option("-q", "--quiet", is_flag=True, help="Only display task IDs")
@click.argument("names", metavar="[NODE...]", nargs=-1, shell_complete=complete.nodes)
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
    """List the tasks on one or more nodes; on this one when none is named."""
    wanted = names or ("self",)
    rows, problems = nodes.ps(ctx.obj.open(), wanted, filter_, resolve=not no_resolve)
    if len(problems) < len(set(wanted)):
        cells = [task_cells(row, whole=no_trunc) for row in rows]
        click.echo(render(TASK, cells, format_ or ("{{.ID}}" if quiet else "")), nl=False)
    for problem in problems:
        click.echo(f"meshlb: {problem}", err=True)
    ctx.exit(FAILED if problems else 0)


@node.command("inspect", options_metavar="[OPTIONS]")
@how
@click.argument(
    "names", metavar="self|NODE [NODE...]", nargs=-1, required=True, shell_complete=complete.nodes
)
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool, format_: str) -> None:
    """Display detailed information on one or more nodes; `self` is this one."""
    show_objects(ctx, names, partial(nodes.inspect, ctx.obj.open()), node_lines if pretty else None, format_)


@node.command("update", options_metavar="[OPTIONS]")
@click.option(
    "--availability", type=click.Choice(["active", "pause", "drain"]), help="Whether it takes tasks"
)
@click.option("--role", type=click.Choice(["worker", "manager"]), help="Role of the node")
@click.option("--label-add", multiple=True, type=TEXT, help="Add or update a node label: zone=a")
@click.option("--label-rm", multiple=True, type=TEXT, help="Remove a node label")
@click.argument("name", metavar="NODE", shell_complete=complete.nodes)
@click.pass_obj
def update(connection: Connection, /, name: str, label_add: Any, label_rm: Any, **flags: Any) -> None:
    """Change a node.

    \b
    Examples:
      meshlb node update --availability drain node2
      meshlb node update --label-add meshlb.weight=3 node2
    """
    change = nodes.NodeChange(labels=Edit(label_add, label_rm), **flags)
    nodes.update(connection.open(), name, change)
    click.echo(name)


@node.command("promote", options_metavar="")
@names_argument
@click.pass_obj
def promote(connection: Connection, names: tuple[str, ...]) -> None:
    """Make managers of nodes."""
    engine = connection.open()
    for name in names:  # the first that cannot be promoted ends it, as with docker
        if nodes.update(engine, name, nodes.NodeChange(role="manager")):
            click.echo(f"Node {name} promoted to a manager in the swarm.")
        else:
            click.echo(f"Node {name} is already a manager.")


@node.command("demote", options_metavar="")
@names_argument
@click.pass_obj
def demote(connection: Connection, names: tuple[str, ...]) -> None:
    """Make workers of managers."""
    engine = connection.open()
    for name in names:
        if nodes.update(engine, name, nodes.NodeChange(role="worker")):
            click.echo(f"Manager {name} demoted in the swarm.")
        else:
            click.echo(f"Node {name} is already a worker.")


@node.command("rm", options_metavar="[OPTIONS]")
@click.option("-f", "--force", is_flag=True, help="Also a node that is not down")
@names_argument
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], force: bool) -> None:
    """Remove nodes from the swarm."""
    engine = ctx.obj.open()

    def one(name: str) -> None:
        nodes.rm(engine, name, force)
        click.echo(name)

    each(ctx, names, one)
