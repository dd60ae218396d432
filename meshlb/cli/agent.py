"""`meshlb agent`: the agent of this node."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import click

from meshlb.cli import agent_view, firewall
from meshlb.cli.agent_view import AgentView
from meshlb.cli.ask import answered, ask, asked_of, connected, socket_option
from meshlb.cli.deploy import deploy, undeploy
from meshlb.cli.program import Verbs
from meshlb.cli.secret import asked
from meshlb.cli.template import Template
from meshlb.cli.unit import agent_program, unit
from meshlb.errors import MeshError
from meshlb.handover.agent_socket import OWN
from meshlb.handover.giving import Conversation, HandoverError
from meshlb.http import users

UNIT = Path("/etc/systemd/system/meshlb-agent.service")
UPGRADE = 60.0  # seconds until a new agent has taken over


@click.group(cls=Verbs)
def agent() -> None:
    """The agent of this node: status, reload, upgrade, install and uninstall; or of all nodes: deploy."""


for command in (deploy, undeploy):
    agent.add_command(command)


@agent.command("status", options_metavar="[OPTIONS]")
@click.option("--format", "format_", default="", metavar="FORMAT", help="json or TEMPLATE ({{.version}} …)")
@agent_view.option
def status(format_: str, agent: AgentView) -> None:
    """Show how the agent is: what it follows, what it serves, what is wrong."""
    found = agent.status()
    if format_ == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
    elif format_:
        click.echo(Template(format_).fill(found))
    else:
        click.echo("\n".join(status_lines(found)))


def status_lines(found: dict[str, Any]) -> list[str]:
    """The agent's /api/v1/status for people (pure)."""
    source, counters, channel = found["source"], found["counters"], found.get("channel")
    states = [port["state"] for port in found["ports"]]
    counted = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none"
    lines = [
        f"Release: {found['version']}",
        f"Source: {source['kind']}{'' if source['connected'] else ' (not connected)'}",
        f"Ports: {len(states)} ({counted})",
        f"Connections: {counters['open']} open, {counters['accepted']} accepted, {counters['failed']} failed",
    ]
    if channel:
        lines.append(f"Other agents: {channel['connected']} of {channel['peers']} heard")
    if found["draining"]:
        lines.append("Ending: it takes no new connections")
    if found["problems"]:
        lines += ["Problems:", *(f" {problem}" for problem in found["problems"])]
    return lines


@agent.command("reload", options_metavar="[OPTIONS]")
@socket_option
def reload(socket_: Path) -> None:
    """Have the agent look at everything anew."""
    click.echo(f"{ask(socket_, 'reload')}.")


@agent.command("upgrade", options_metavar="[OPTIONS]")
@socket_option
def upgrade(socket_: Path) -> None:
    """Replace the agent by the release that is installed, without losing a connection."""
    place = _stamp(socket_)
    with connected(socket_) as talk:
        before, name = talk.pid, talk.name
        if not before:
            deploy = "`meshlb agent deploy --image IMAGE` replaces it, on all nodes"
            raise MeshError(f"the agent is {name}: {deploy}")
        asked_of(talk, "upgrade")
        try:
            now = _successor(socket_, talk, place)
        except KeyboardInterrupt:
            told = "\nThe new agent goes on starting in the background: `meshlb agent status`."
            click.echo(told, err=True)
            raise
    click.echo(f"Process {now} has taken over; {before} ends with its last connection.")


def _successor(socket_: Path, talk: Conversation, place: tuple[int, int]) -> int:
    """The process that has taken over from the one that was asked, which may tell a failure."""
    before, end = talk.pid, time.monotonic() + UPGRADE
    while time.monotonic() < end:
        with contextlib.suppress(HandoverError):  # it has said nothing more, or has gone
            answered(talk, 0)
        # Whoever asks at the socket could be taken for the new agent: only a new socket is looked at.
        now = _who(socket_) if _stamp(socket_) not in ((0, 0), place) else before
        if now != before:
            return now
        time.sleep(0.1)
    raise MeshError(
        f"no new agent has taken over in {UPGRADE:.0f} s: process {before} goes on; its log says why"
    )


def _who(path: Path) -> int:
    with connected(path) as talk:
        return talk.pid


def _stamp(path: Path) -> tuple[int, int]:
    """Tells a socket from one that was there before; its inode's number alone may be used again."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_ctime_ns


@agent.command("password", options_metavar="")
@click.argument("name")
def password(name: str) -> None:
    """Print a line for the agent's --http-users: a user's name and a hash of the password that is asked for.

    Where no terminal is, the password is a line of standard input.
    """
    users.checked_name(name)
    click.echo(f"{name}:{users.hashed(asked(f'Password of {name}', twice=True))}")


@agent.command("install", options_metavar="[OPTIONS]")
@click.option("--print", "only_print", is_flag=True, help="Only print the unit")
@click.option("--no-start", is_flag=True, help="Do not start it now, nor at boot")
def install(only_print: bool, no_start: bool) -> None:
    """Have systemd run the agent on this node, now and after every boot."""
    text = unit(agent_program())
    if only_print:
        click.echo(text, nl=False)
        return
    try:
        UNIT.write_text(text)
    except OSError as error:
        raise MeshError(f"{UNIT} cannot be written ({error.strerror}): run this as root") from error
    click.echo(f"Wrote {UNIT}.")
    if not no_start:
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", UNIT.name)
        click.echo("The agent runs: `meshlb agent status`, `meshlb ps`.")
    for finding in firewall.closed(firewall.ruleset()):
        click.echo(f"Note: {finding.text}: {finding.advice}.", err=True)


@agent.command("uninstall", options_metavar="")
def uninstall() -> None:
    """End the agent of this node, and have systemd forget it.

    Swarm's own mesh serves again, where the kernel has IPVS.
    """
    if not UNIT.exists():
        raise MeshError(f"there is no {UNIT}: nothing was installed")
    if shutil.which("systemctl"):
        _systemctl("disable", "--now", UNIT.name)
    try:
        UNIT.unlink()
    except OSError as error:
        raise MeshError(f"{UNIT} cannot be removed ({error.strerror}): run this as root") from error
    if shutil.which("systemctl"):
        _systemctl("daemon-reload")
    with contextlib.suppress(OSError):  # another agent's socket is there
        OWN.rmdir()
    click.echo(f"Removed {UNIT}.")


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MeshError("there is no systemctl here: have your own init system run meshlb-agent") from None
    if done.returncode:
        raise MeshError(f"systemctl {' '.join(words)}: {' '.join(done.stderr.split()) or 'failed'}")
