"""The command `meshlb`: its verbs by group. A group's module is read only when one of its verbs runs."""

from __future__ import annotations

import os
from typing import Any

import click

from meshlb import __version__
from meshlb.cli.program import Connection, Program
from meshlb.cli.tls import keys, tls_options

VERBS = {
    "Swarm": {
        "init": ("meshlb.cli.swarm", "init", "Begin a swarm, with this node as its manager"),
        "join": ("meshlb.cli.swarm", "join", "Join this node to a swarm"),
        "join-token": ("meshlb.cli.swarm", "join_token", "Show the command that lets another node join"),
        "leave": ("meshlb.cli.swarm", "leave", "Leave the swarm"),
        "info": ("meshlb.cli.swarm", "info", "Show what this node is, and its place in the swarm"),
        "inspect": ("meshlb.cli.swarm_manage", "inspect", "Show the swarm in detail"),
        "update": ("meshlb.cli.swarm_manage", "update", "Change the swarm"),
        "ca": ("meshlb.cli.swarm_manage", "ca", "Show or replace the swarm's root certificate"),
        "unlock": ("meshlb.cli.swarm_manage", "unlock", "Unlock this manager"),
        "unlock-key": ("meshlb.cli.swarm_manage", "unlock_key", "Show the key that unlocks managers"),
        "node": ("meshlb.cli.node", "node", "List, change, promote, demote and remove nodes"),
        "service": ("meshlb.cli.service", "service", "Create, list, scale, change and remove services"),
    },
    "On this node": {
        "ps": ("meshlb.cli.mesh", "ps", "Show which ports are served, with their backends"),
        "top": ("meshlb.cli.top", "top", "Watch the same live"),
        "why": ("meshlb.cli.why", "why", "Walk the way of a connection, and say where it ends"),
        "doctor": ("meshlb.cli.doctor", "doctor", "Look at what this node needs, and what it lacks"),
        "drain": ("meshlb.cli.orders", "drain", "Give a backend no new connections"),
        "pause": ("meshlb.cli.orders", "pause", "The same, and never end those that it has"),
        "undrain": ("meshlb.cli.orders", "undrain", "Give a backend new connections again"),
        "agent": ("meshlb.cli.agent", "agent", "Show, reload, upgrade, install the agent"),
        "lab": ("meshlb.cli.lab", "lab", "Run a swarm of several nodes on this machine, to try things on"),
        "completion": ("meshlb.cli.completion", "completion", "Have a shell complete this command's words"),
    },
}


@click.group(cls=Program, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-H",
    "--host",
    default="",
    metavar="ADDRESS",
    help="Docker daemon to talk to (DOCKER_HOST); --tls… as docker",
)
@click.option("-c", "--context", default="", metavar="NAME", help="docker context to use (DOCKER_CONTEXT)")
@click.option(
    "--config", default="", metavar="DIR", help="Where docker's settings are (DOCKER_CONFIG)", hidden=True
)
@tls_options
@click.version_option(__version__, "-v", "--version", message="meshlb version %(version)s")
@click.pass_context
def main(ctx: click.Context, /, host: str, context: str, config: str, **tls: Any) -> None:
    """The routing mesh and load balancer for Docker Swarm: works on the one that you have, or begins one.
    What `meshlb` does, `docker` shows. Its agent serves the published ports on every node.

    \b
    A first walk:
      meshlb init                        on the first node
      meshlb join --token … HOST:2377    on the others: init prints the line
      meshlb service create --name whoami -p 80:8000 IMAGE
    """
    if config:
        os.environ["DOCKER_CONFIG"] = config  # for the SDK, too
    ctx.obj = Connection(host, context, keys(**tls))
