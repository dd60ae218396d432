"""What `init` and `join` ask on a terminal, and say in a line elsewhere: an address, the agent."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from meshlb.cli import ask
from meshlb.cli.agent import UNIT, install
from meshlb.errors import MeshError
from meshlb.handover import agent_socket


def on_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def choose(addresses: Sequence[str]) -> str:
    """Have one of `ADDRESS on INTERFACE` chosen, by number, or typed."""
    click.echo("This machine has several addresses. At which one do the other nodes reach it?\n")
    for number, each in enumerate(addresses, 1):
        click.echo(f"  {number}  {each}")
    said = str(click.prompt("\nNumber, or another address or interface", prompt_suffix=": ")).strip()
    known = {str(number): each.partition(" on ")[0] for number, each in enumerate(addresses, 1)}
    return known.get(said, said)


def offer_agent(local: bool) -> None:
    """Offer the agent to a node that has become part of a swarm. `local`: it is this machine."""
    if not local:
        click.echo(
            "\nThe node serves published ports when its agent runs: `meshlb agent install` there.", err=True
        )
    elif not _is_there():
        as_root = os.geteuid() == 0
        if as_root and on_terminal():
            _ask()
        else:
            sudo = "" if as_root else "sudo "
            click.echo(f"\nTo have this node serve published ports: {sudo}meshlb agent install", err=True)


def _ask() -> None:
    try:
        if click.confirm("\nInstall the agent, so that this node serves published ports?", default=True):
            click.get_current_context().invoke(install, only_print=False, no_start=False)
    except click.Abort:
        click.echo()
    except MeshError as error:  # the swarm is there all the same
        click.echo(f"meshlb: {error}", err=True)


def _is_there() -> bool:
    """Whether an agent runs or is installed, as far as we may see."""
    try:
        found = agent_socket.connect(ask.usual())
    except MeshError:
        return UNIT.exists()
    if found is None:
        return UNIT.exists()
    found.close()
    return True
