"""`meshlb agent deploy`, `undeploy`: the agent as a global service, on every node that there will be."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

import meshlb
from meshlb.cli.program import Connection, Verb
from meshlb.cli.progress import show
from meshlb.errors import ConfigError, MeshError

if TYPE_CHECKING:
    from meshlb.cluster.client import APIClient
    from meshlb.cluster.convergence import Frame

IMAGE = f"localhost/meshlb-agent:{meshlb.__version__}"  # as scripts/image names it
# What an error of a task's is about, and what to do.
_ADVICE = {
    "No such image": "bring the image there (`docker save {image} | ssh NODE docker load`, or push it to a "
    "registry and name it with --image)",
    "not a shared or slave mount": "`mount --make-rshared /` there, at every boot",
}
_OURS = {"config": "--config", "state_dir": "--state-dir", "socket": "--socket", "host_root": "--host-root"}


@click.command("deploy", cls=Verb, options_metavar="[OPTIONS]")
@click.option("--image", default=IMAGE, show_default=True, help="The agent's image")
@click.option("-d", "--detach", is_flag=True, help="Exit immediately instead of waiting to converge")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output")
@click.option(
    "--with-registry-auth", is_flag=True, help="Send registry authentication details to swarm agents"
)
@click.argument("options", metavar="[-- AGENT-OPTION...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def deploy(
    connection: Connection,
    /,
    image: str,
    options: tuple[str, ...],
    *,
    detach: bool,
    quiet: bool,
    with_registry_auth: bool,
) -> None:
    """Run the agent on every node, as a global service of the Swarm.

    Nodes that join later have it by themselves, and so have all nodes a new release: deploy it again.
    `scripts/image` makes the image without a registry. Each node needs it then. The agent's options
    take the place of all that were given before; without any, those stay.

    \b
    Examples:
      meshlb agent deploy
      meshlb agent deploy --image registry.example/meshlb-agent:0.1.0
      meshlb agent deploy -- --drain 300 --log-format json
    """
    from meshlb.cluster import deployment  # noqa: PLC0415  the SDK takes longer to load than --help

    drain = drain_of(options)
    engine = connection.open()
    if not options and (options := deployment.options(engine)):
        drain = drain_of(options)
        click.echo(f"With the options that it has: {shlex.join(options)} (`undeploy` first forgets them)")
    wanted = deployment.changes(image, options, drain)
    what, warnings = deployment.deploy(engine, wanted, registry_auth=with_registry_auth)
    if warnings:
        click.echo(warnings, err=True)
    click.echo(f"Service {deployment.NAME} {what}.")
    if what == "unchanged":
        click.echo(f"To start its tasks anew: docker service update --force {deployment.NAME}")
    if not detach and show(_frames(engine, image), deployment.NAME, sys.stdout, quiet=quiet):
        click.echo(
            "The agent runs on every node, and will on those that join: "
            f"`meshlb service ps {deployment.NAME}`, `meshlb agent undeploy`."
        )


def drain_of(options: tuple[str, ...]) -> float:
    """Seconds that the agent's options give to connections; a UsageError when they are none."""
    from meshlb.agent import main as agent_program  # noqa: PLC0415  as long

    given = agent_program.make_context("meshlb-agent", list(options), help_option_names=[]).params
    default = agent_program.make_context("meshlb-agent", []).params
    for name, option in _OURS.items():
        if given[name] != default[name]:
            raise ConfigError(f"{option} is not for an agent that is a service: deploy has chosen it")
    return float(given["drain"])


def _frames(engine: APIClient, image: str) -> Iterator[Frame]:
    """The service's progress. MeshError once nothing but nodes that it cannot run on are left."""
    from meshlb.cluster import deployment  # noqa: PLC0415
    from meshlb.cluster import service as services  # noqa: PLC0415

    for frame in services.follow(engine, deployment.NAME):
        yield frame
        errors, waiting = deployment.hindered(engine)
        if errors and not waiting:
            raise MeshError("\n".join(sentences(errors, image)))


def sentences(errors: Mapping[str, str], image: str) -> Iterable[str]:
    """A sentence for each error, with the nodes that have it and what to do (pure)."""
    for error in dict.fromkeys(errors.values()):
        nodes = [name for name, has in errors.items() if has == error]
        todo = next((text for part, text in _ADVICE.items() if part in error), "")
        advice = f": {todo.format(image=image)}; it starts there by itself then" if todo else ""
        yield f"the agent does not run on {', '.join(nodes)}: {error}{advice}"


@click.command("undeploy", cls=Verb, options_metavar="")
@click.pass_obj
def undeploy(connection: Connection) -> None:
    """End the agent on every node that `deploy` has put it on.

    Swarm's own mesh serves again, where the kernel has IPVS.
    """
    from meshlb.cluster import deployment  # noqa: PLC0415
    from meshlb.cluster import service as services  # noqa: PLC0415

    engine = connection.open()
    patience: Any = services.inspect(engine, deployment.NAME)["Spec"]["TaskTemplate"]["ContainerSpec"]
    seconds = patience.get("StopGracePeriod", 10**10) / 10**9
    services.rm(engine, deployment.NAME)
    click.echo(
        f"Removed service {deployment.NAME}: each node's agent ends with its connections, after "
        f"{seconds:.0f} s at the latest."
    )
