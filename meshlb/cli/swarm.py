"""`meshlb init`, `join`, `leave`, `join-token`, `info`: the node's place in the swarm."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import click

from meshlb.cli import complete, offer, swarm_options
from meshlb.cli.humanize import size
from meshlb.cli.parameters import Parsed
from meshlb.cli.program import INTERRUPTED, Connection, Verb
from meshlb.cli.swarm_manage import show_key
from meshlb.cli.template import Template
from meshlb.cluster import info as node_info
from meshlb.cluster import swarm
from meshlb.cluster.client import APIClient, address
from meshlb.cluster.swarm_spec import PATHS
from meshlb.errors import EngineError

ADVERTISE = "Address (or interface) at which other nodes reach this one: ADDRESS|INTERFACE[:PORT]"
LISTEN = "Address on which a manager listens for other nodes: ADDRESS|INTERFACE[:PORT]"
DATA_PATH = "Address (or interface) for the containers' traffic between nodes"
LISTENING = Parsed(swarm.with_port, "address")
SUBNET = Parsed(swarm.pool, "subnet")
availability = click.option(
    "--availability",
    type=click.Choice(["active", "pause", "drain"]),
    default="active",
    show_default=True,
    help="Whether the node takes tasks",
)


@click.command(cls=Verb)
@click.option("--advertise-addr", default="", metavar="ADDRESS", help=ADVERTISE)
@click.option("--listen-addr", default="0.0.0.0:2377", show_default=True, type=LISTENING, help=LISTEN)
@click.option("--data-path-addr", default="", metavar="ADDRESS", help=DATA_PATH)
@click.option(
    "--data-path-port",
    type=click.IntRange(1024, 49151),
    metavar="PORT",
    help="UDP port of the containers' traffic between nodes [default: 4789]",
)
@click.option("--default-addr-pool", multiple=True, type=SUBNET, help="Where new networks lie: 10.20.0.0/16")
@click.option("--default-addr-pool-mask-length", type=click.IntRange(1, 29), default=24, show_default=True)
@click.option("--autolock", is_flag=True, default=None, help="Managers need a key to start again")
@click.option("--force-new-cluster", is_flag=True, help="Begin anew from this manager's state")
@swarm_options.specification
@availability
@click.pass_obj
def init(connection: Connection, /, **options: Any) -> None:
    """Begin a swarm, with this node as its first manager.

    \b
    Examples:
      meshlb init
      meshlb init --advertise-addr 192.168.1.11 --default-addr-pool 10.20.0.0/16
    """
    values = swarm_options.values(options)
    own = {name: value for name, value in options.items() if name.replace("_", "-") not in PATHS}
    engine = connection.open()
    made = _begun(engine, swarm.InitOptions(**own, values=values))
    click.echo(f"Swarm initialized: current node ({made.node_id}) is now a manager.\n")
    _show_join("worker", made.worker)
    click.echo("To add a manager to this swarm, run 'meshlb join-token manager' and follow the instructions.")
    if made.unlock_key:
        click.echo()
        show_key(made.unlock_key)
    offer.offer_agent(address(engine).startswith("unix://"))


def _begun(engine: APIClient, options: swarm.InitOptions) -> swarm.Initialized:
    """The swarm; of several addresses that the node has, one is asked for where somebody is there."""
    try:
        return swarm.init(engine, options)
    except EngineError as error:
        choices = swarm.choices(error)
        if not choices or not offer.on_terminal():
            raise
    return swarm.init(engine, replace(options, advertise_addr=offer.choose(choices)))


def _show_join(role: str, invitation: swarm.Invitation) -> None:
    click.echo(f"To add a {role} to this swarm, run the following command:\n")
    click.echo(f"    meshlb join --token {invitation.token} {invitation.address}\n")


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@click.option("--token", required=True, help="Token that lets this node in: `meshlb join-token` prints it")
@click.option("--advertise-addr", default="", metavar="ADDRESS", help=ADVERTISE)
@click.option("--listen-addr", default="0.0.0.0:2377", show_default=True, type=LISTENING, help=LISTEN)
@click.option("--data-path-addr", default="", metavar="ADDRESS", help=DATA_PATH)
@availability
@click.argument("manager", metavar="HOST:PORT")
@click.pass_context
def join(ctx: click.Context, /, **options: Any) -> None:
    """Join this node to a swarm, as a worker or a manager."""
    connection: Connection = ctx.obj
    engine = connection.open()
    try:
        role = swarm.join(engine, swarm.JoinOptions(**options))
    except KeyboardInterrupt:
        click.echo(
            "\nmeshlb: interrupted; the engine may go on joining in the background: "
            "`meshlb info` shows its state, `meshlb leave --force` ends it",
            err=True,
        )
        ctx.exit(INTERRUPTED)
    click.echo(f"This node joined a swarm as a {role}.")
    offer.offer_agent(address(engine).startswith("unix://"))


@click.command(cls=Verb)
@click.option("-f", "--force", is_flag=True, help="Also when this node is a manager")
@click.pass_obj
def leave(connection: Connection, force: bool) -> None:
    """Leave the swarm. The tasks of this node move to others."""
    swarm.leave(connection.open(), force)
    click.echo("Node left the swarm.")


@click.command("join-token", cls=Verb)
@click.option("--rotate", is_flag=True, help="Make the old token void and show a new one")
@click.option("-q", "--quiet", is_flag=True, help="Only show the token")
@click.argument("role", metavar="(worker|manager)", shell_complete=complete.words("worker", "manager"))
@click.pass_obj
def join_token(connection: Connection, role: str, rotate: bool, quiet: bool) -> None:
    """Show the command with which another node joins, as a worker or a manager."""
    engine = connection.open()
    if rotate:
        swarm.rotate(engine, role)
    invitation = swarm.invitation(engine, role)
    if quiet:
        click.echo(invitation.token)
        return
    if rotate:
        click.echo(f"Successfully rotated {role} join token.\n")
    _show_join(role, invitation)


@click.command(cls=Verb)
@click.option(
    "-f", "--format", "format_", default="", metavar="FORMAT", help="json or TEMPLATE ({{.Swarm.NodeID}} …)"
)
@click.pass_obj
def info(connection: Connection, format_: str) -> None:
    """Show what this node is, and what it knows of its swarm.

    \b
    Examples:
      meshlb info
      meshlb info --format '{{.Swarm.NodeAddr}}'
    """
    template = Template(format_) if format_ not in ("", "json") else None
    found = node_info.info(connection.open())
    if template:
        click.echo(template.fill(as_json(found)))
    elif format_:
        click.echo(json.dumps(as_json(found), ensure_ascii=False))
    else:
        click.echo("\n".join(as_lines(found)))


def as_json(found: node_info.Info) -> dict[str, Any]:
    """The node in docker's own names, and what we know beyond them; what a worker cannot know is null."""
    member = found.swarm
    return {
        **found.whole,
        "Swarm": {
            **(found.whole.get("Swarm") or {}),
            "LocalNodeState": member.state,
            "Error": member.error,
            "NodeID": member.node_id,
            "IsManager": member.manager,
            "ClusterID": member.cluster_id,
            "Managers": member.managers,
            "Nodes": member.nodes,
            "CACertHash": member.ca_cert_hash or None,
            "NodeAddr": member.node_address,
            "ManagerAddresses": list(member.manager_addresses),
        },
        "ServerVersion": found.server_version,
        "KernelVersion": found.kernel,
        "OperatingSystem": found.operating_system,
        "OSType": found.os_type,
        "Architecture": found.architecture,
        "NCPU": found.cpus,
        "MemTotal": found.memory,
        "Name": found.name,
        "DockerRootDir": found.root_dir,
    }


def as_lines(found: node_info.Info) -> list[str]:
    """The node as docker's `info` would say it."""
    return [
        f"Server Version: {found.server_version}",
        *_member_lines(found.swarm),
        f"Kernel Version: {found.kernel}",
        f"Operating System: {found.operating_system}",
        f"OSType: {found.os_type}",
        f"Architecture: {found.architecture}",
        f"CPUs: {found.cpus}",
        f"Total Memory: {size(found.memory)}",
        f"Name: {found.name}",
        f"Docker Root Dir: {found.root_dir}",
    ]


def _member_lines(member: node_info.Membership) -> list[str]:
    lines = [f"Swarm: {member.state}"]
    if member.error:
        lines.append(f" Error: {member.error}")
    if member.state == "inactive":
        return lines
    known = {
        "NodeID": member.node_id,
        "Is Manager": str(member.manager).lower(),
        "ClusterID": member.cluster_id,
        "Managers": member.managers,
        "Nodes": member.nodes,
        "CACertHash": member.ca_cert_hash,
        "Node Address": member.node_address,
    }
    lines += [f" {title}: {value}" for title, value in known.items() if value not in (None, "")]
    if member.manager_addresses:
        lines += [" Manager Addresses:", *(f"  {address}" for address in member.manager_addresses)]
    return lines
