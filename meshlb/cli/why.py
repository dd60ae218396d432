"""`meshlb why HOST:PORT`: the way of one connection, step by step, and where it ends."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

from meshlb.cli import agent_view, firewall
from meshlb.cli.agent_view import AgentError, AgentView
from meshlb.cli.mesh_rows import Look, rows
from meshlb.cli.parameters import Parsed
from meshlb.cli.probe import REFUSED, SANDBOX, Attempt, Finding, Way, attempt, inside, is_local, lines
from meshlb.cli.program import FAILED, Connection, Verb
from meshlb.cli.reach import attempts, reach
from meshlb.errors import ConfigError, MeshError
from meshlb.model import Protocol
from meshlb.ports.holder import Holder, holder_of

AGENTS = 7947  # where agents of other nodes listen by default
Json = Mapping[str, Any]


class Asked(NamedTuple):
    """The port in question, here or on the node whose address is `other`."""

    port: int
    protocol: str
    other: str = ""

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


def target(text: str) -> tuple[str, int, str]:
    """Host, port and protocol of `HOST:PORT`, `:PORT`, `PORT`, each with `/udp` or without."""
    match = re.fullmatch(r"(?:(\[[^]]+\]|[^:/\[\]]*):)?(\d{1,5})(?:/(tcp|udp))?", text, re.ASCII)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise ConfigError(f'"{text}" is not HOST:PORT, such as 192.168.1.12:80 or 53/udp')
    return (match[1] or "").strip("[]") or "127.0.0.1", int(match[2]), match[3] or "tcp"


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@agent_view.option
@click.argument("where", metavar="HOST:PORT[/udp]", type=Parsed(target, "address"))
@click.pass_context
def why(ctx: click.Context, agent: AgentView, where: tuple[str, int, str]) -> None:
    """Walk the way of a connection: is the port published, who listens, which backends answer.

    \b
    Examples:
      meshlb why 80
      meshlb why 192.168.1.12:443
    """
    host, port, protocol = where
    findings = [*_walk(agent, Swarm(ctx.obj), host, port, protocol)]
    click.echo("\n".join(lines(findings)))
    ctx.exit(FAILED if any(finding.good is False for finding in findings) else 0)


class Swarm:
    """What the engine knows beyond the agent; most of it only a manager's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def troubles(self, service: str) -> tuple[str, ...]:
        """Why its tasks do not run: what this node's engine knows, and a manager's of them all."""
        from meshlb.cluster import trouble  # noqa: PLC0415  the SDK loads slowly

        here = self._asked(lambda engine: trouble.of_last_container(engine, service))
        return (*self._asked(lambda engine: trouble.of_service(engine, service)), *filter(None, here))

    def outside(self, asked: Asked) -> tuple[str, ...]:
        """The services that publish a port without the mesh."""
        from meshlb.cluster import trouble  # noqa: PLC0415

        return self._asked(lambda engine: trouble.outside_the_mesh(engine, asked.port, asked.protocol))

    def _asked(self, ask: Callable[[Any], tuple[str, ...]]) -> tuple[str, ...]:
        try:
            return ask(self._connection.open())
        except MeshError:
            return ()


def _walk(agent: AgentView, swarm: Swarm, host: str, port: int, protocol: str) -> Iterator[Finding]:
    try:
        address = str(socket.getaddrinfo(host, port)[0][4][0])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "a part of it is empty or too long"
        yield Finding(False, f"{host} is no name or address: {reason}", "write the address of a node")
        return
    if host != address:
        yield Finding(True, f"{host} is {address}")
    here = is_local(address)
    yield from _agent(agent, swarm, Asked(port, protocol, "" if here else address))
    if here:
        yield from firewall.findings(firewall.ruleset(), port, protocol)
    if protocol == "tcp":
        yield connection(address, port, attempt(address, port), here)
    else:
        yield Finding(None, "UDP answers nobody who asks nothing: no test connection")


def _agent(agent: AgentView, swarm: Swarm, asked: Asked) -> Iterator[Finding]:
    """What this node's agent knows of the port."""
    other = asked.other
    holder = None if other else holder_of(asked.port, Protocol(asked.protocol))
    try:
        look = agent.look()
    except AgentError as error:
        advice = "without an agent only Swarm's own mesh serves the port, if anything does"
        yield Finding(None if other else False, str(error), advice)
        if other:
            yield stranger(other, {})
        else:
            yield Finding(None, listener(asked, holder))
        return
    yield Finding(True, f"an agent runs here, release {look.status.get('version')}")
    if other:
        yield from _elsewhere(look.status, other)
    yield from silent(look.status, other)
    yield from published(look.status, asked, holder, swarm)
    yield from _backends(look, swarm, asked)


def _elsewhere(status: Json, address: str) -> Iterator[Finding]:
    yield stranger(address, status)
    if not any(node["address"] == address for node in status.get("nodes", ())):
        return
    if attempt(address, AGENTS, patience=2.0, stay=0.01).error == REFUSED:
        text = f"no agent listens there ({address} {AGENTS}/tcp)"
        yield Finding(None, text, f"on {address}: `meshlb agent status`, `meshlb agent install`")


def stranger(address: str, status: Json) -> Finding:
    """What the agent here knows of another machine (pure)."""
    node = next((one for one in status.get("nodes", ()) if one["address"] == address), None)
    if node is None:
        return Finding(
            None, f"{address} is another machine: its agent is not asked", "run this there for more"
        )
    name = node.get("name") or address
    if node.get("state", "up") == "up":
        text = f"{address} is {name}, another node; backends are tried from here"
        return Finding(None, text, f"run this on {name} for its own view")
    text = f"{address} is {name}, a node that has fallen silent"
    return Finding(False, text, "is it up, and the network between? `meshlb doctor` tries the ways")


def silent(status: Json, other: str = "") -> Iterator[Finding]:
    """Nodes whose tasks get no connections, beside the one that is asked about (pure)."""
    for node in status.get("nodes", ()):
        if node.get("state", "up") != "up" and node["address"] != other:
            text = (
                f"node {node.get('name') or node['address']} has fallen silent: its tasks get no connections"
            )
            yield Finding(None, text, "`meshlb doctor` tries the ways there")


def _backends(look: Look, swarm: Swarm, asked: Asked) -> Iterator[Finding]:
    own = [row for row in rows(look) if row["Port"] == str(asked)]
    if not own:
        return
    backends = [row for row in own if row["Backend"]]
    if not backends:
        yield from no_backend(own[0]["Service"], swarm)
        return
    way = _way(look.status)
    yield from reach(backends, attempts(backends, way, asked.protocol))
    if way is None and asked.protocol == "tcp":
        yield Finding(None, "backends are not tried: that takes root", "sudo meshlb why …")


def no_backend(service: str, swarm: Swarm) -> Iterator[Finding]:
    """That nothing runs, and why."""
    known = swarm.troubles(service)
    advice = f"`docker service ps {service}`, on a manager, tells why"
    yield Finding(False, f"it has no backend: no task of service {service} runs", "" if known else advice)
    yield from (Finding(None, reason) for reason in known)


def _way(status: Json) -> Way | None:
    """How backends are tried from here; None when that takes root."""
    if (status.get("source") or {}).get("kind") != "swarm":
        return Way()
    try:
        inside(SANDBOX, lambda: None)
    except OSError:
        return None
    return Way(SANDBOX)


def published(status: Json, asked: Asked, holder: Holder | None, swarm: Swarm) -> Iterator[Finding]:
    """Whether a service publishes the port, and whether this node's agent serves it."""
    ports: Sequence[Json] = status.get("ports", ())
    found = next((one for one in ports if one["port"] == str(asked)), None)
    if found is None:
        yield unpublished(ports, asked, swarm)
        if not asked.other:
            yield Finding(None, listener(asked, holder))
        return
    yield _served(found, asked.other)
    for problem in status.get("problems", ()):
        if problem.startswith(f"service {found['service']}: "):
            yield Finding(None, problem)


def _served(found: Json, other: str) -> Finding:
    port = f"port {found['port']} of service {found['service']}"
    if other:
        return Finding(True, f"{port} is published through the routing mesh: on every node")
    if found["state"] == "failed":
        return Finding(
            False,
            f"{port} is not served: {found['reason']}",
            "who connects meets that process instead; the agent tries again by itself",
        )
    how = "is led to the agent by nftables" if found["state"] == "redirected" else "is served by the agent"
    return Finding(True, f"{port} {how}")


def unpublished(ports: Sequence[Json], asked: Asked, swarm: Swarm) -> Finding:
    """That nobody publishes the port through the mesh, and what is published that may be meant."""
    text = f"no service publishes port {asked} through the routing mesh"
    second = f"{asked.port}/{'udp' if asked.protocol == 'tcp' else 'tcp'}"
    if any(one["port"] == second for one in ports):
        advice = f"{second} is published: `meshlb why {second}`; a service may publish both"
        return Finding(False, text, advice)
    outside = swarm.outside(asked)
    if outside:
        advice = "only the nodes with a task of it answer there, without the mesh"
        return Finding(False, f"{text}; service {outside[0]} publishes it with mode=host", advice)
    known = ", ".join(one["port"] for one in ports) or "none"
    target = "TARGET/udp" if asked.protocol == "udp" else "TARGET"
    advice = f"docker service update --publish-add {asked.port}:{target} SERVICE"
    return Finding(False, f"{text}; published are: {known}", advice)


def listener(asked: Asked, holder: Holder | None) -> str:
    """Who has the port (pure)."""
    who = f"{holder} listens on it" if holder else "nobody listens on it, as far as we may see"
    return f"port {asked}: {who}"


def connection(address: str, port: int, tried: Attempt, here: bool) -> Finding:
    """How the connection itself went (pure)."""
    what = f"a connection to {address}:{port}"
    if not tried.error:
        return Finding(True, f"{what} is accepted in {tried.seconds * 1000:.1f} ms")
    advice = {
        REFUSED: "nothing listens there: is an agent running, and the port published?",
        "reset at once": "it was given up: no backend answered, or allow, deny or rate forbid it",
        "closed at once": "it was accepted, and a backend closed it at once",
    }
    between = (
        "is there a firewall on this node?" if here else "is it up? Is there a firewall, there or between?"
    )
    return Finding(False, f"{what}: {tried.error}", advice.get(tried.error, between))
