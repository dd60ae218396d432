"""`meshlb service`: create, list, scale, change and remove services."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

from meshlb.cli import options
from meshlb.cli.columns import render
from meshlb.cli.parameters import Parsed, filters, layout
from meshlb.cli.program import FAILED, Connection
from meshlb.cli.progress import show
from meshlb.cli.rows import SERVICE, TASK, service_cells, task_cells
from meshlb.cluster import publish
from meshlb.cluster import service as services
from meshlb.cluster.client import APIClient
from meshlb.cluster.spec import MODES, Changes
from meshlb.errors import ConfigError, MeshError

detach = click.option("-d", "--detach", is_flag=True, help="Exit immediately instead of waiting to converge")
quiet = click.option("-q", "--quiet", is_flag=True, help="Suppress progress output")
no_resolve = click.option(
    "--no-resolve-image", is_flag=True, help="Do not query the registry to resolve image digest"
)


@click.group()
def service() -> None:
    """Create, list, scale, change and remove services."""


@service.command("create", context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS]")
@click.option("--name", default="", help="Service name")
@click.option("-p", "--publish", "ports", multiple=True, type=options.PORTS, help="Publish a port: 80:8000")
@click.option("--mode", type=click.Choice(list(MODES)), default="replicated", show_default=True)
@click.option("--replicas", type=click.IntRange(0), help="Number of tasks")
@click.option("-e", "--env", multiple=True, type=options.VARIABLE, help="Set environment variables")
@click.option("--env-file", multiple=True, type=options.VARIABLES, help="Read in a file of variables")
@click.option("-l", "--label", multiple=True, help="Service labels")
@click.option("--container-label", multiple=True, help="Container labels")
@click.option("--constraint", multiple=True, help="Placement constraints: node.role==worker")
@click.option("--network", multiple=True, type=options.NETWORK, help="Network attachments")
@click.option("--mount", multiple=True, type=options.MOUNT, help="Attach a filesystem mount to the service")
@options.single
@detach
@quiet
@no_resolve
@click.argument("image", metavar="IMAGE")
@click.argument("args", metavar="[COMMAND] [ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def create(connection: Connection, /, name: str, mode: str, detach: bool, quiet: bool, **flags: Any) -> None:
    """Create a new service."""
    changes = Changes(
        values=options.values(flags | {"args": list(flags["args"]) or None}),
        replicas=flags["replicas"],
        env=options.edit((*options.flat(flags["env_file"]), *flags["env"])),
        labels=options.edit(options.labels(flags, flags["label"])),
        container_labels=options.edit(flags["container_label"]),
        constraints=options.edit(flags["constraint"]),
        ports=options.edit(options.flat(flags["ports"])),
        networks=options.edit(flags["network"]),
        mounts=options.edit(flags["mount"]),
    )
    engine = connection.open()
    made, warnings = services.create(engine, name, mode, changes, resolve=not flags["no_resolve_image"])
    _warn(warnings)
    click.echo(made)
    if not detach:
        _wait(engine, made, quiet=quiet)


@service.command("update", options_metavar="[OPTIONS]")
@click.option("--image", help="Service image tag")
@click.option("--args", type=options.COMMAND, help="Service command args")
@click.option("--replicas", type=click.IntRange(0), help="Number of tasks")
@click.option("--force", is_flag=True, help="Force update even if no changes require it")
@click.option("--publish-add", multiple=True, type=options.PORTS, help="Add or update a published port")
@click.option(
    "--publish-rm",
    multiple=True,
    type=Parsed(publish.parse_target, "target"),
    help="Remove a published port by its target port",
)
@click.option("--env-add", multiple=True, type=options.VARIABLE, help="Add or update an environment variable")
@click.option("--env-rm", multiple=True, help="Remove an environment variable")
@click.option("--label-add", multiple=True, help="Add or update a service label")
@click.option("--label-rm", multiple=True, help="Remove a label by its key")
@click.option("--container-label-add", multiple=True, help="Add or update a container label")
@click.option("--container-label-rm", multiple=True, help="Remove a container label by its key")
@click.option("--constraint-add", multiple=True, help="Add a placement constraint")
@click.option("--constraint-rm", multiple=True, help="Remove a constraint")
@click.option("--network-add", multiple=True, type=options.NETWORK, help="Add a network")
@click.option("--network-rm", multiple=True, help="Remove a network")
@click.option("--mount-add", multiple=True, type=options.MOUNT, help="Add or update a mount on a service")
@click.option("--mount-rm", multiple=True, help="Remove a mount by its target path")
@options.single
@detach
@quiet
@no_resolve
@click.argument("name", metavar="SERVICE")
@click.pass_obj
def update(connection: Connection, /, name: str, detach: bool, quiet: bool, **flags: Any) -> None:
    """Change a service."""
    changes = Changes(
        values=options.values(flags),
        replicas=flags["replicas"],
        force=flags["force"],
        env=options.edit(flags["env_add"], flags["env_rm"]),
        labels=options.edit(options.labels(flags, flags["label_add"]), flags["label_rm"]),
        container_labels=options.edit(flags["container_label_add"], flags["container_label_rm"]),
        constraints=options.edit(flags["constraint_add"], flags["constraint_rm"]),
        ports=options.edit(options.flat(flags["publish_add"]), flags["publish_rm"]),
        networks=options.edit(flags["network_add"], flags["network_rm"]),
        mounts=options.edit(flags["mount_add"], flags["mount_rm"]),
    )
    engine = connection.open()
    _warn(services.update(engine, name, changes, resolve=not flags["no_resolve_image"]))
    click.echo(name)
    if not detach:
        _wait(engine, name, quiet=quiet)


@service.command("scale", options_metavar="[OPTIONS]")
@detach
@click.argument("targets", metavar="SERVICE=REPLICAS [SERVICE=REPLICAS...]", nargs=-1, required=True)
@click.pass_context
def scale(ctx: click.Context, targets: tuple[str, ...], detach: bool) -> None:
    """Scale one or multiple replicated services."""
    wanted = [_target(text) for text in targets]
    engine = ctx.obj.open()
    scaled, failed = [], False
    for name, replicas in wanted:
        try:
            _warn(services.scale(engine, name, replicas))
        except MeshError as error:
            click.echo(f"meshlb: {error}", err=True)
            failed = True
        else:
            click.echo(f"{name} scaled to {replicas}")
            scaled.append(name)
    if not detach:
        for name in scaled:
            _wait(engine, name, quiet=False)
    ctx.exit(FAILED if failed else 0)


def _target(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"([^=]+)=(\d{1,9})", text, re.ASCII)
    if not match:
        raise ConfigError(f'"{text}" is not SERVICE=REPLICAS, such as web=5')
    return match[1], int(match[2])


@service.command("rm", options_metavar="")
@click.argument("names", metavar="SERVICE [SERVICE...]", nargs=-1, required=True)
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Remove one or more services."""
    engine = ctx.obj.open()
    failed = False
    for name in names:
        try:
            services.rm(engine, name)
            click.echo(name)
        except MeshError as error:
            click.echo(f"meshlb: {error}", err=True)
            failed = True
    ctx.exit(FAILED if failed else 0)


@service.command("ls")
@filters
@layout
@click.option("-q", "--quiet", is_flag=True, help="Only display IDs")
@click.pass_obj
def ls(connection: Connection, filter_: dict[str, list[str]], format_: str, quiet: bool) -> None:
    """List services."""
    cells = [service_cells(row) for row in services.ls(connection.open(), filter_)]
    _list(SERVICE, cells, format_ or ("{{.ID}}" if quiet else ""))


@service.command("ps", options_metavar="[OPTIONS]")
@filters
@layout
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@click.option("--no-resolve", is_flag=True, help="Do not map IDs to Names")
@click.option("-q", "--quiet", is_flag=True, help="Only display task IDs")
@click.argument("names", metavar="SERVICE [SERVICE...]", nargs=-1, required=True)
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


@service.command("inspect", options_metavar="")
@click.argument("names", metavar="SERVICE [SERVICE...]", nargs=-1, required=True)
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Display detailed information on one or more services, as JSON."""
    engine = ctx.obj.open()
    found, problems = [], []
    for name in names:
        try:
            found.append(services.inspect(engine, name))
        except MeshError as error:
            problems.append(error)
    click.echo(json.dumps(found, indent=4, ensure_ascii=False))
    for problem in problems:
        click.echo(f"meshlb: {problem}", err=True)
    ctx.exit(FAILED if problems else 0)


def _wait(engine: APIClient, name: str, *, quiet: bool) -> None:
    show(services.follow(engine, name), name, sys.stdout, quiet=quiet)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        click.echo(warning, err=True)


def _list(headers: dict[str, str], cells: list[dict[str, str]], format_: str) -> None:
    click.echo(render(headers, cells, format_), nl=False)
