"""`meshlb lab`: a Swarm of several nodes on this machine."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from meshlb.lab import DEFAULT_NAME, DEFAULT_NODES, MOST_NODES, Lab, LabError, Node, NodeStatus, down, names


def _name_option(command: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option("--name", default=DEFAULT_NAME, show_default=True, metavar="LAB", help="Which lab.")
    return option(command)


@click.group()
def lab() -> None:
    """Run a Swarm of several nodes on this machine, to try things on."""


@lab.command()
@click.option(
    "--nodes", type=click.IntRange(1, MOST_NODES), help=f"How many nodes.  [default: {DEFAULT_NODES}]"
)
@click.option(
    "--managers", type=click.IntRange(1), default=1, show_default=True, help="How many are managers."
)
@click.option("--subnet", metavar="CIDR", help="A /24 for the nodes.  [default: a free one in 198.18.0.0/15]")
@click.option("--no-swarm", is_flag=True, help="Start the engines only.")
@_name_option
def up(nodes: int | None, managers: int, subnet: str | None, no_swarm: bool, name: str) -> None:
    """Start the nodes and form a Swarm; mend a lab that is up already."""
    signal.signal(signal.SIGTERM, _interrupt)  # a half-built lab is taken down, as on Ctrl-C
    signal.signal(signal.SIGHUP, _interrupt)
    built = Lab.up(nodes, name=name, swarm=not no_swarm, managers=managers, subnet=subnet, report=click.echo)
    _print_status(built.status())
    option = "" if name == DEFAULT_NAME else f" --name {name}"
    click.echo(f"\nRun commands in a node with: meshlb lab exec{option} node1 -- docker info")


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@lab.command()
@_name_option
def status(name: str) -> None:
    """Show the nodes, their addresses and how they are."""
    _print_status(Lab.find(name).status())


def _print_status(nodes: Sequence[NodeStatus]) -> None:
    line = "{:<10} {:<16} {:<12} {:<20} {:<10} {}"
    click.echo(line.format("NODE", "ADDRESS", "STATE", "ENGINE", "SWARM", "PID"))
    for node in nodes:
        fields = (node.name, node.address, node.state, node.engine or "-", node.swarm or "-", node.pid or "-")
        click.echo(line.format(*fields))


@lab.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_name_option
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, node: str, command: tuple[str, ...]) -> None:
    """Run a command in a node, as on a machine of its own."""
    # click keeps a "--" that follows an argument.
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("which command? For example: meshlb lab exec node1 -- docker ps")
    sys.exit(_run_inside(Lab.find(name).node(node), words))


def _run_inside(node: Node, command: Sequence[str]) -> int:
    # The terminal sends Ctrl-C to the command too: it decides what to do with it, and we report its end.
    ours = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGQUIT)]
    try:
        child = node.popen(command, cwd=_directory(), preexec_fn=_default_signals)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _frame: child.send_signal(number))
        code = child.wait()
    finally:
        for number, handler in ours:
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _default_signals() -> None:
    # An ignored signal stays ignored across exec.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "/"


def _on_node(verb: str, text: str) -> None:
    @lab.command(verb, help=text)
    @_name_option
    @click.argument("node")
    def command(name: str, node: str) -> None:
        found = Lab.find(name)
        getattr(found, verb)(found.node(node))
        click.echo(node)


_on_node("cut", "Pull a node's network cable: it runs on, alone.")
_on_node("heal", "Plug the cable in again.")
_on_node("kill", "Power a node off, without warning. Its disk stays.")
_on_node("start", "Power a node on again.")
_on_node("restart", "Power a node off and on again.")


@lab.command("down")
@click.option("--all", "every", is_flag=True, help="All labs on this machine.")
@_name_option
def down_(every: bool, name: str) -> None:
    """Take the lab down, and leave nothing behind."""
    for each in names() if every else [name]:
        if down(each):
            click.echo(f"lab {each} is down")
        elif not every:
            raise LabError(f"there is no lab {each}; labs here: {', '.join(names()) or 'none'}")
