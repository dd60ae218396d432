"""`meshlb why HOST:PORT`: the way of one connection, step by step, and where it ends."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from meshlb.cli import agent_view
from meshlb.cli.agent_view import AgentError, AgentView
from meshlb.cli.mesh_rows import Look, rows
from meshlb.cli.parameters import Parsed
from meshlb.cli.probe import SANDBOX, Attempt, Finding, attempt, inside, is_local, lines
from meshlb.cli.program import FAILED, Verb
from meshlb.errors import ConfigError
from meshlb.model import Protocol
from meshlb.ports.holder import Holder, holder_of

MOST_TRIED = 16  # backends

Try = Callable[[str, int], Attempt]


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
    findings = [*_walk(agent, host, port, protocol)]
    click.echo("\n".join(lines(findings)))
    ctx.exit(FAILED if any(finding.good is False for finding in findings) else 0)


def _walk(agent: AgentView, host: str, port: int, protocol: str) -> Iterator[Finding]:
    try:
        address = str(socket.getaddrinfo(host, port)[0][4][0])
    except OSError as error:
        yield Finding(False, f"{host} is no name or address: {error.strerror}", "write the address of a node")
        return
    if host != address:
        yield Finding(True, f"{host} is {address}")
    if is_local(address):
        yield from _here(agent, port, protocol)
    else:
        text = f"{address} is another machine: its agent is not asked"
        yield Finding(None, text, f"run this on {host} for more")
    if protocol == "tcp":
        yield connection(address, port, attempt(address, port))
    else:
        yield Finding(None, "UDP answers nobody who asks nothing: no test connection")


def _here(agent: AgentView, port: int, protocol: str) -> Iterator[Finding]:
    holder = holder_of(port, Protocol(protocol))
    try:
        status = agent.status()
        look = Look(status, agent.counts())
    except AgentError as error:
        advice = "without an agent only Swarm's own mesh serves the port, if anything does"
        yield Finding(False, str(error), advice)
        yield Finding(None, listener(port, protocol, holder))
        return
    yield Finding(True, f"an agent runs here, release {status.get('version')}")
    yield from published(status, port, protocol, holder)
    own = [row for row in rows(look) if row["Port"] == f"{port}/{protocol}"]
    if own:
        yield from reach([row for row in own if row["Backend"]], _trier(status), protocol)


def _trier(status: Mapping[str, Any]) -> Try | None:
    """How backends are tried from here; None when that takes root."""
    if (status.get("source") or {}).get("kind") != "swarm":
        return attempt
    try:
        inside(SANDBOX, lambda: None)
    except OSError:
        return None
    return lambda address, port: inside(SANDBOX, lambda: attempt(address, port))


def published(
    status: Mapping[str, Any], port: int, protocol: str, holder: Holder | None
) -> Iterator[Finding]:
    """Whether the agent serves the port (pure)."""
    name = f"{port}/{protocol}"
    found = next((one for one in status.get("ports", ()) if one["port"] == name), None)
    if found is None:
        known = ", ".join(one["port"] for one in status.get("ports", ())) or "none"
        yield Finding(
            False,
            f"no service publishes port {name} through the routing mesh; published are: {known}",
            f"docker service update --publish-add {port}:TARGET SERVICE",
        )
        yield Finding(None, listener(port, protocol, holder))
        return
    good = found["state"] != "failed"
    how = "is led to the agent by nftables" if found["state"] == "redirected" else "is served by the agent"
    port_of = f"port {name} of service {found['service']}"
    yield Finding(good, f"{port_of} {how}" if good else f"{port_of} is not served: {found['reason']}")
    for problem in status.get("problems", ()):
        if problem.startswith(f"service {found['service']}: "):
            yield Finding(None, problem)


def listener(port: int, protocol: str, holder: Holder | None) -> str:
    """Who has the port (pure)."""
    who = f"{holder} listens on it" if holder else "nobody listens on it, as far as we may see"
    return f"port {port}/{protocol}: {who}"


def reach(backends: Sequence[Mapping[str, str]], try_: Try | None, protocol: str) -> Iterator[Finding]:
    """Every backend with its state, and how a connection to it goes."""
    if not backends:
        yield Finding(
            False, "it has no backend: no task of the service runs", "docker service ps SERVICE tells why"
        )
        return
    for row in backends[:MOST_TRIED]:
        task = f"{row['Task']} on {row['Node']}" if row["Node"] else row["Task"]
        text = f"backend {row['Backend']} ({task}) is {row['State']}"
        text += f", {row['Active']} connections, {row['Failed']} failed" if row["Active"] else ""
        if protocol != "tcp" or try_ is None:
            yield Finding(row["State"] == "up" or None, text)
            continue
        address, _, port = row["Backend"].rpartition(":")
        tried = try_(address.strip("[]"), int(port))
        yield _backend(text, row["State"], tried)
    if len(backends) > MOST_TRIED:
        yield Finding(None, f"… and {len(backends) - MOST_TRIED} more, not tried")
    if try_ is None and protocol == "tcp":
        yield Finding(None, "backends are not tried: that takes root", "sudo meshlb why …")


def _backend(text: str, state: str, tried: Attempt) -> Finding:
    if tried.error:
        return Finding(
            False, f"{text}; a connection to it: {tried.error}", "look at the task: does it listen?"
        )
    good = True if state == "up" else None
    return Finding(good, f"{text}; it answers in {tried.seconds * 1000:.1f} ms")


def connection(address: str, port: int, tried: Attempt) -> Finding:
    """How the connection itself went (pure)."""
    what = f"a connection to {address}:{port}"
    if not tried.error:
        return Finding(True, f"{what} is accepted in {tried.seconds * 1000:.1f} ms")
    advice = {
        "Connection refused": "nothing listens there: is an agent running, and the port published?",
        "reset at once": "it was given up: no backend answered, or allow, deny or rate forbid it",
        "closed at once": "it was accepted, and a backend closed it at once",
    }
    return Finding(
        False, f"{what}: {tried.error}", advice.get(tried.error, "is there a firewall in between?")
    )
