"""`meshlb drain`, `pause`, `undrain`: what an operator asks of one backend, through the agent's socket."""

from __future__ import annotations

from pathlib import Path

import click

from meshlb.cli import complete
from meshlb.cli.ask import ask, socket_option
from meshlb.cli.program import Verb

force_option = click.option("-f", "--force", is_flag=True, help="Even when no other backend of a port is up")


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@click.argument("backend", shell_complete=complete.backends)
@force_option
@socket_option
def drain(backend: str, force: bool, socket_: Path) -> None:
    """Give a backend no new connections from this node.

    BACKEND is a task's name, the beginning of its id, or ADDRESS:PORT, as `meshlb ps` shows them. Connections
    that it has go on as long as the policy's `drain` lets them. That holds while the task lives, or until
    `meshlb undrain`; the next agent knows of it, after a crash too. Other nodes have agents of their own.

    \b
    Examples:
      meshlb drain web.1
      meshlb drain 10.0.0.7:8000
      meshlb ps --filter state=drained
    """
    _order(socket_, "drain", backend, force)


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@click.argument("backend", shell_complete=complete.backends)
@force_option
@socket_option
def pause(backend: str, force: bool, socket_: Path) -> None:
    """Give a backend no new connections from this node, and never end those that it has.

    It is as `meshlb drain`, but for the policy's `drain`.
    """
    _order(socket_, "pause", backend, force)


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@click.argument("backend", shell_complete=complete.backends)
@socket_option
def undrain(backend: str, socket_: Path) -> None:
    """Give a backend that was drained or paused new connections again."""
    _order(socket_, "undrain", backend, False)


def _order(path: Path, verb: str, backend: str, force: bool) -> None:
    click.echo(f"{ask(path, 'order', verb=verb, backend=backend, force=force)}.")
