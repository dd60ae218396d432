"""`meshlb service create`, `update`, `rollback`, `scale`, `rm`: what changes services."""

from __future__ import annotations

import re
import sys
from typing import Any

import click
from click.core import ParameterSource

from meshlb.cli import complete, lists, options, policies
from meshlb.cli.parameters import COUNT, each
from meshlb.cli.program import FAILED, Connection, Verb
from meshlb.cli.progress import show
from meshlb.cluster import service as services
from meshlb.cluster.client import APIClient
from meshlb.cluster.spec import MODES
from meshlb.errors import ConfigError, MeshError

detach = click.option("-d", "--detach", is_flag=True, help="Exit immediately instead of waiting to converge")
quiet = click.option("-q", "--quiet", is_flag=True, help="Suppress progress output")
no_resolve = click.option(
    "--no-resolve-image", is_flag=True, help="Do not query the registry to resolve image digest"
)
registry_auth = click.option(
    "--with-registry-auth", is_flag=True, help="Send registry authentication details to swarm agents"
)


@click.command(
    "create", cls=Verb, context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS]"
)
@click.option("--name", default="", help="Service name")
@click.option("--mode", type=click.Choice(list(MODES)), default="replicated", show_default=True)
@click.option("--replicas", type=COUNT, help="Number of tasks")
@lists.for_create
@options.single
@policies.for_create
@detach
@quiet
@no_resolve
@registry_auth
@click.argument("image", metavar="IMAGE")
@click.argument("args", metavar="[COMMAND] [ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def create(connection: Connection, /, name: str, mode: str, detach: bool, quiet: bool, **flags: Any) -> None:
    """Create a new service.

    \b
    Examples:
      meshlb service create --name web -p 80:8000 --replicas 3 IMAGE
      meshlb service create --name db --mount source=data,target=/data --hold 30s -p 5432:5432 IMAGE
      meshlb service create --name front -p 80:80 -p 443:443 --policy 443:balance=source IMAGE
    """
    changes = options.changes(
        flags | {"args": list(flags["args"]) or None}, policies.edited(flags, lists.edits(flags))
    )
    engine = connection.open()
    made, warnings = services.create(engine, name, mode, changes, _sending(flags))
    _warn(warnings)
    click.echo(made)
    if not detach:
        _wait(engine, made, quiet=quiet)


@click.command("update", cls=Verb, options_metavar="[OPTIONS]")
@click.option("--image", help="Service image tag")
@click.option("--args", type=options.COMMAND, help="Service command args")
@click.option("--replicas", type=COUNT, help="Number of tasks")
@click.option("--force", is_flag=True, help="Force update even if no changes require it")
@click.option("--rollback", is_flag=True, help="Rollback to previous specification")
@lists.for_update
@options.single
@policies.for_update
@detach
@quiet
@no_resolve
@registry_auth
@click.argument("name", metavar="SERVICE", shell_complete=complete.services)
@click.pass_context
def update(ctx: click.Context, /, name: str, detach: bool, quiet: bool, **flags: Any) -> None:
    """Change a service.

    \b
    Examples:
      meshlb service update --image web:2 --update-order start-first web
      meshlb service update --balance leastconn --policy-rm 443:balance web
      meshlb service update --publish-add 8080:8000 --publish-rm 80 web
    """
    if flags["rollback"]:
        _only_rollback(ctx)
        ctx.invoke(rollback, name=name, detach=detach, quiet=quiet)
        return
    changes = options.changes(flags, policies.edited(flags, lists.edits(flags)))
    engine = ctx.obj.open()
    _warn(services.update(engine, name, changes, _sending(flags)))
    click.echo(name)
    if not detach:
        _wait(engine, name, quiet=quiet)


def _only_rollback(ctx: click.Context) -> None:
    allowed = ("rollback", "detach", "quiet", "name")
    given = (name for name in ctx.params if name not in allowed)
    if any(ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in given):
        raise click.UsageError("other flags may not be combined with --rollback")


def _sending(flags: dict[str, Any]) -> services.Sending:
    return services.Sending(not flags["no_resolve_image"], flags["with_registry_auth"])


@click.command("rollback", cls=Verb, options_metavar="[OPTIONS]")
@detach
@quiet
@click.argument("name", metavar="SERVICE", shell_complete=complete.services)
@click.pass_obj
def rollback(connection: Connection, name: str, detach: bool, quiet: bool) -> None:
    """Give a service back its previous specification."""
    engine = connection.open()
    _warn(services.rollback(engine, name))
    click.echo(name)
    if not detach:
        _wait(engine, name, quiet=quiet)


@click.command("scale", cls=Verb, options_metavar="[OPTIONS]")
@detach
@click.argument(
    "targets",
    metavar="SERVICE=REPLICAS [SERVICE=REPLICAS...]",
    nargs=-1,
    required=True,
    shell_complete=complete.scaled,
)
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
    for name in () if detach else scaled:
        try:
            _wait(engine, name, quiet=False)
        except MeshError as error:
            click.echo(f"meshlb: {error}", err=True)
            failed = True
    ctx.exit(FAILED if failed else 0)


def _target(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"([^=]+)=(\d{1,9})", text, re.ASCII)
    if not match:
        raise ConfigError(f'"{text}" is not SERVICE=REPLICAS, such as web=5')
    return match[1], int(match[2])


@click.command("rm", cls=Verb, options_metavar="")
@click.argument(
    "names", metavar="SERVICE [SERVICE...]", nargs=-1, required=True, shell_complete=complete.services
)
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Remove one or more services."""
    engine = ctx.obj.open()

    def one(name: str) -> None:
        services.rm(engine, name)
        click.echo(name)

    each(ctx, names, one)


def _wait(engine: APIClient, name: str, *, quiet: bool) -> None:
    show(services.follow(engine, name), name, sys.stdout, quiet=quiet)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        click.echo(warning, err=True)
