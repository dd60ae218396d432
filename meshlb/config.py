"""What the agent was told on its command line and in its environment."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import meshlb

LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
LOOPS = ("auto", "uvloop", "asyncio")
TAKEOVERS = ("auto", "always", "never")
SOCKET = Path("/run/meshlb/agent.sock")
BEYOND_DRAIN = 15.0  # seconds that an agent's end may take besides those that connections get (--drain)


@dataclass(frozen=True, slots=True)
class Config:
    """The agent's settings. Every one is also the environment variable MESHLB_<NAME>."""

    config: Path | None = None  # a static TOML file instead of the Swarm
    http: str = "127.0.0.1:9377"  # where the page and /healthz answer; empty for nowhere
    peers: str = "0.0.0.0:7947"  # where other nodes' agents reach this one; empty for no channel
    state_dir: Path | None = Path("/var/lib/meshlb")  # for what is known at the next start; None for nowhere
    workers: int = 0  # threads that move bytes; 0 is one per core
    takeover: str = "auto"  # auto | always | never
    drain: float = 30.0  # seconds that SIGTERM leaves to established connections
    log_format: str = "text"  # text | json
    log_level: str = "info"
    loop: str = "auto"  # auto | uvloop | asyncio; auto is uvloop where it is installed
    socket: Path | None = SOCKET  # where it is asked to hand over; None for nowhere
    linger: float = math.inf  # seconds that a handover leaves to connections that the old agent has
    http_certificate: Path | None = None  # TLS at --http, for who asks from elsewhere; PEM
    http_key: Path | None = None  # of that certificate; None where it is in the same file
    http_users: Path | None = None  # names with hashes of passwords, for who asks from elsewhere
    host_root: Path = Path("/")  # where the node's own root directory is, for an agent in a container


_DEFAULTS = Config()


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9377` or `[::1]:9377`; ValueError when it is neither."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ValueError(text)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(text)
    if not host or "[" in host or "]" in host:  # no host at all would be every address
        raise ValueError(text)
    return host, int(port)


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if value in ("", "off"):
        return ""
    try:
        split_address(value)
    except ValueError as error:
        raise click.BadParameter(
            f'"{value}" is not ADDRESS:PORT; write for example 127.0.0.1:9377, [::1]:9377, '
            "0.0.0.0:9377 for every address of this machine, or off"
        ) from error
    return value


def _seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if value != value:  # noqa: PLR0124  # the range lets nan through
        raise click.BadParameter("nan is not a number of seconds")
    return value


def _path(_context: click.Context, _parameter: click.Parameter, value: str) -> Path | None:
    return None if value in ("", "off") else Path(value)


def _option(name: str, **details: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    variable = "MESHLB_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, **details)


_OPTIONS = (
    _option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Serve the ports of this TOML file instead of following the Swarm. It is read again when it "
        "changes and on SIGHUP. examples/static.toml explains it.",
    ),
    _option(
        "--http",
        metavar="ADDRESS:PORT",
        default=_DEFAULTS.http,
        show_default=True,
        callback=_address,
        help="Where the page of this node, GET /healthz and GET /api/v1/status answer; off for nowhere.",
    ),
    _option(
        "--http-certificate",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Speak TLS at --http with this certificate (PEM, with what its issuer adds). Files of --http-* "
        "are read again when they change; who asks from this node itself needs neither TLS nor a password.",
    ),
    _option(
        "--http-key",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The certificate's key; by default it is in the same file.",
    ),
    _option(
        "--http-users",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Who may read at --http: lines that `meshlb agent password NAME` prints.",
    ),
    _option(
        "--peers",
        metavar="ADDRESS:PORT",
        default=_DEFAULTS.peers,
        show_default=True,
        callback=_address,
        help="Where the agents of other nodes reach this one, over TLS with Swarm's own certificates: they "
        "tell which tasks are about to stop or unhealthy, and notice nodes that fall silent. off for no such "
        "channel.",
    ),
    _option(
        "--state-dir",
        metavar="DIR",
        default=str(_DEFAULTS.state_dir),
        show_default=True,
        callback=_path,
        help="Where an agent that starts finds what is drained and paused, and the protocols and labels that "
        "managers told last; off for nowhere. Agents that run side by side need one each.",
    ),
    _option(
        "--workers",
        metavar="N",
        type=click.IntRange(0, 256),
        default=_DEFAULTS.workers,
        help="Threads that move the bytes; 0, the default, is one for each core.",
    ),
    _option(
        "--takeover",
        type=click.Choice(TAKEOVERS),
        default=_DEFAULTS.takeover,
        show_default=True,
        help="Where Docker itself holds a published port: lead its traffic here with nftables. auto does so "
        "for the ports that Docker serves, always for every port, never for none.",
    ),
    _option(
        "--drain",
        metavar="SECONDS",
        type=click.FloatRange(0, 86400),
        default=_DEFAULTS.drain,
        callback=_seconds,
        show_default=True,
        help="How long established connections may go on after SIGTERM. A second SIGTERM ends at once.",
    ),
    _option(
        "--log-format",
        type=click.Choice(LOG_FORMATS),
        default=_DEFAULTS.log_format,
        show_default=True,
        help="Lines for people, or JSON for programs.",
    ),
    _option(
        "--log-level",
        type=click.Choice(LEVELS),
        default=_DEFAULTS.log_level,
        show_default=True,
        help="What is logged: this and what is worse.",
    ),
    _option(
        "--loop",
        type=click.Choice(LOOPS),
        default=_DEFAULTS.loop,
        show_default=True,
        help="The event loop of the control side; auto is uvloop where it is installed.",
    ),
    _option(
        "--socket",
        metavar="PATH",
        default=str(_DEFAULTS.socket),
        show_default=True,
        callback=_path,
        help="The agent's own Unix socket: one agent has it, and an agent that is started with --replace "
        "takes over there. off for none.",
    ),
    click.option(
        "--replace",
        is_flag=True,
        help="Take over from the agent that runs on this node, for an upgrade or other options, without "
        "losing a connection: it hands over its listening sockets and ends with its last connection. "
        "Where none runs, this one just starts. SIGUSR2 has a running agent start its own replacement.",
    ),
    _option(
        "--linger",
        metavar="SECONDS",
        type=click.FloatRange(0),
        default=_DEFAULTS.linger,
        callback=_seconds,
        help="How long connections of an agent that has handed over may go on; without an end by default.",
    ),
    _option(
        "--host-root",
        metavar="DIR",
        default=str(_DEFAULTS.host_root),
        show_default=True,
        type=click.Path(path_type=Path),
        help="Where the root directory of the node is, for an agent in a container: Swarm's certificates and "
        "the node's processes are found below it.",
    ),
    click.option(
        "--keeper",
        is_flag=True,
        help="Where no systemd does it, in containers for example: keep the agent running, and its listening "
        "sockets while it is not. Clients that connect while it starts again wait instead of being refused.",
    ),
    click.option("--check", is_flag=True, help="Check the file of --config, say what is wrong, and exit."),
    click.version_option(meshlb.__version__, prog_name="meshlb-agent"),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command the agent's options: the fields of `Config`, `check`, `keeper` and `replace`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
