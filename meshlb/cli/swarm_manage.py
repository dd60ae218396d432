"""`meshlb update`, `inspect`, `unlock`, `unlock-key`, `ca`: what managers can do with the swarm."""

from __future__ import annotations

from typing import Any

import click

from meshlb.cli import swarm_options
from meshlb.cli.inspect import show_objects
from meshlb.cli.parameters import Parsed
from meshlb.cli.program import Connection, Verb
from meshlb.cli.secret import asked
from meshlb.cluster import root_ca, swarm
from meshlb.cluster.swarm_spec import pem
from meshlb.errors import ConfigError, EngineError

PEM = Parsed(pem, "pem-file")


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@click.option("--autolock/--no-autolock", default=None, help="Whether managers need a key to start again")
@swarm_options.specification
@click.pass_context
def update(ctx: click.Context, /, **flags: Any) -> None:
    """Change the swarm.

    \b
    Examples:
      meshlb update --task-history-limit 2
      meshlb update --autolock=false
    """
    values = swarm_options.values(flags)
    if not values:  # as docker does
        click.echo(ctx.get_help())
        return
    engine = ctx.obj.open()
    swarm.update(engine, values)
    click.echo("Swarm updated.")
    if values.get("autolock"):
        show_key(swarm.unlock_key(engine))


def show_key(key: str) -> None:
    """The key, and what it is for."""
    click.echo(
        "To unlock a swarm manager after it restarts, run the `meshlb unlock`\n"
        f"command and provide the following key:\n\n    {key}\n\n"
        "Remember to store this key in a password manager, since without it you\n"
        "will not be able to restart the manager."
    )


@click.command("inspect", cls=Verb, options_metavar="[OPTIONS]")
@click.option("-f", "--format", "format_", default="", metavar="FORMAT", help="json or TEMPLATE ({{.ID}} …)")
@click.pass_context
def inspect(ctx: click.Context, format_: str) -> None:
    """Display detailed information on the swarm."""
    engine = ctx.obj.open()
    show_objects(ctx, [""], lambda _: swarm.inspect(engine), format_=format_)


@click.command(cls=Verb, options_metavar="")
@click.pass_obj
def unlock(connection: Connection) -> None:
    """Unlock this manager, with the key that it asks for."""
    engine = connection.open()
    if not swarm.locked(engine):
        raise EngineError("this manager is not locked")
    key = asked("Enter unlock key").strip()
    if not key:
        raise ConfigError("no key was given: a manager that is not locked prints it with `meshlb unlock-key`")
    swarm.unlock(engine, key)


@click.command("unlock-key", cls=Verb, options_metavar="[OPTIONS]")
@click.option("--rotate", is_flag=True, help="Rotate unlock key")
@click.option("-q", "--quiet", is_flag=True, help="Only display the key")
@click.pass_obj
def unlock_key(connection: Connection, rotate: bool, quiet: bool) -> None:
    """Show the key that unlocks managers."""
    engine = connection.open()
    if rotate:
        if not swarm.autolocked(engine):
            raise EngineError("managers do not lock themselves: turn that on with `meshlb update --autolock`")
        swarm.update(engine, {}, key=True)
        if not quiet:
            click.echo("Successfully rotated manager unlock key.\n")
    key = swarm.unlock_key(engine)
    if not key:
        raise EngineError("there is no key: managers do not lock themselves (`meshlb update --autolock`)")
    if quiet:
        click.echo(key)
    else:
        show_key(key)


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@click.option("--rotate", is_flag=True, help="Replace the root certificate, by a new one if none is given")
@click.option("--ca-cert", type=PEM, default=None, help="Root certificate to use, a file of PEM")
@click.option("--ca-key", type=PEM, default=None, help="Its key, a file of PEM")
@swarm_options.cert_expiry
@swarm_options.external_ca
@click.option("-d", "--detach", is_flag=True, help="Exit immediately instead of waiting for all nodes")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output")
@click.pass_obj
def ca(
    connection: Connection,
    /,
    *,
    rotate: bool,
    ca_cert: str | None,
    ca_key: str | None,
    detach: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Show the swarm's root certificate, or replace it."""
    values = swarm_options.values(flags)
    if not rotate and (values or ca_cert or ca_key):
        raise click.UsageError("--ca-cert, --ca-key, --cert-expiry and --external-ca need --rotate")
    if ca_key and not ca_cert:
        raise click.UsageError("--ca-key needs --ca-cert, the certificate that it belongs to")
    engine = connection.open()
    if rotate:
        root_ca.rotate(engine, values, ca_cert or "", ca_key or "")
        if detach:
            return
        _watch(engine, quiet=quiet)
    click.echo(root_ca.show(engine).rstrip("\n"))


def _watch(engine: Any, *, quiet: bool) -> None:
    said = ""
    try:
        for state in root_ca.follow(engine):
            text = (
                f"rotated TLS certificates: {state.certificates}/{state.nodes} nodes, "
                f"rotated CA certificates: {state.roots}/{state.nodes} nodes"
            )
            if text != said and not quiet:
                click.echo(text, err=True)
            said = text
    except KeyboardInterrupt:
        click.echo("\nOperation continuing in background.", err=True)
        raise SystemExit(0) from None
