"""The flags that `service create` and `service update` share, and what they ask for."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from meshlb.cli.parameters import Parsed
from meshlb.cluster import mount, publish, units
from meshlb.cluster.spec import PATHS, Edit
from meshlb.errors import ConfigError
from meshlb.policy import KEYS, LABEL_PREFIX, Key

F = TypeVar("F", bound=Callable[..., Any])


def _command(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f'"{text}" has a quote that does not end') from error


def _shell(text: str) -> list[str]:
    return ["CMD-SHELL", text]


DURATION = Parsed(units.nanoseconds, "duration")
SIZE = Parsed(units.size, "bytes")
CPUS = Parsed(units.nanocpus, "decimal")
COMMAND = Parsed(_command, "command")
COUNT = click.IntRange(0)
RATIO = click.FloatRange(0, 1)
ORDER = click.Choice(["start-first", "stop-first"])

# Every flag that sets one value, in the order of the help. None is a switch.
_SINGLE: tuple[tuple[str, click.ParamType[Any] | None, str], ...] = (
    ("--hostname", click.STRING, "Container hostname"),
    ("-u,--user", click.STRING, "Username or UID (format: <name|uid>[:<group|gid>])"),
    ("-w,--workdir", click.STRING, "Working directory inside the container"),
    ("--entrypoint", COMMAND, "Overwrite the default ENTRYPOINT of the image"),
    ("--init", None, "Use an init inside each container to forward signals and reap processes"),
    ("-t,--tty", None, "Allocate a pseudo-TTY"),
    ("--read-only", None, "Mount the container's root filesystem as read only"),
    ("--stop-signal", click.STRING, "Signal to stop the container"),
    ("--stop-grace-period", DURATION, "Time to wait before force killing a container (default 10s)"),
    ("--limit-cpu", CPUS, "Limit CPUs"),
    ("--limit-memory", SIZE, "Limit memory"),
    ("--limit-pids", COUNT, "Limit maximum number of processes (0 = unlimited)"),
    ("--reserve-cpu", CPUS, "Reserve CPUs"),
    ("--reserve-memory", SIZE, "Reserve memory"),
    ("--replicas-max-per-node", COUNT, "Maximum number of tasks per node (0 = unlimited)"),
    ("--restart-condition", click.Choice(["none", "on-failure", "any"]), "Restart when condition is met"),
    ("--restart-delay", DURATION, "Delay between restart attempts (default 5s)"),
    ("--restart-max-attempts", COUNT, "Maximum number of restarts before giving up"),
    ("--restart-window", DURATION, "Window used to evaluate the restart policy"),
    ("--update-delay", DURATION, "Delay between updates"),
    (
        "--update-failure-action",
        click.Choice(["pause", "continue", "rollback"]),
        "Action on update failure (default pause)",
    ),
    ("--update-max-failure-ratio", RATIO, "Failure rate to tolerate during an update"),
    ("--update-monitor", DURATION, "Time to watch each updated task for failure (default 5s)"),
    ("--update-order", ORDER, "Update order (default stop-first)"),
    ("--update-parallelism", COUNT, "Tasks updated simultaneously (0 to update all at once; default 1)"),
    ("--rollback-delay", DURATION, "Delay between task rollbacks"),
    ("--rollback-failure-action", click.Choice(["pause", "continue"]), "Action on rollback failure"),
    ("--rollback-max-failure-ratio", RATIO, "Failure rate to tolerate during a rollback"),
    ("--rollback-monitor", DURATION, "Time to watch each task for failure while rolling back (default 5s)"),
    ("--rollback-order", ORDER, "Rollback order (default stop-first)"),
    ("--rollback-parallelism", COUNT, "Tasks rolled back simultaneously (0 to roll back all at once)"),
    ("--health-cmd", Parsed(_shell, "command"), "Command to run to check health"),
    ("--health-interval", DURATION, "Time between running the check"),
    ("--health-retries", COUNT, "Consecutive failures needed to report unhealthy"),
    ("--health-timeout", DURATION, "Maximum time to allow one check to run"),
    ("--health-start-period", DURATION, "Start period before counting retries towards unhealthy"),
    ("--endpoint-mode", click.Choice(["vip", "dnsrr"]), "Endpoint mode (default vip)"),
    ("--log-driver", click.STRING, "Logging driver for the service"),
)

PORTS = Parsed(publish.parse, "port")
MOUNT = Parsed(mount.mount, "mount")
NETWORK = Parsed(mount.network, "network")


def variable(text: str) -> str:
    """A variable for the containers; a name alone takes its value from our environment, as docker does."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ConfigError(f'"{text}" is not NAME=value')
    return f"{name}={os.environ[name]}" if not equals and name in os.environ else text


VARIABLE = Parsed(variable, "list")


def _read_variables(path: str) -> tuple[str, ...]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file {path} cannot be read: {error}") from error
    stripped = (line.strip() for line in lines)
    return tuple(variable(line) for line in stripped if line and not line.startswith("#"))


VARIABLES = Parsed(_read_variables, "file")


def single(function: F) -> F:
    """Adds the flags that set one value, and meshlb's own, which set labels."""
    for name, key in reversed(KEYS.items()):
        help_ = f"{key.meaning[0].upper()}{key.meaning[1:]}: {key.allowed} (label {LABEL_PREFIX}{name})"
        click.option(f"--{name}", f"policy_{key.field}", type=_policy(name, key), help=help_)(function)
    click.option("--no-healthcheck", is_flag=True, help="Disable any container-specified HEALTHCHECK")(
        function
    )
    for names, kind, help_ in reversed(_SINGLE):
        settings: dict[str, Any] = {"is_flag": True, "default": None} if kind is None else {"type": kind}
        click.option(*names.split(","), help=help_, **settings)(function)
    return function


def _policy(name: str, key: Key) -> Parsed:
    def label(text: str) -> str:
        try:
            key.parse(text)
        except ValueError as error:
            raise ConfigError(f'"{text}" is not {key.allowed}') from error
        return f"{LABEL_PREFIX}{name}={text}"

    return Parsed(label, key.kind)


def values(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags that were given set in the service's specification."""
    given = {name: flags.get(name.replace("-", "_")) for name in PATHS}
    if flags["no_healthcheck"]:
        given["health-cmd"] = ["NONE"]
    return {name: value for name, value in given.items() if value is not None}


def labels(flags: Mapping[str, Any], more: Sequence[str]) -> tuple[str, ...]:
    """The labels that meshlb's own flags set, and those that are given as they are."""
    own = (flags[f"policy_{key.field}"] for key in KEYS.values())
    return (*more, *(label for label in own if label is not None))


def flat(groups: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """One list of what a repeatable flag gave in groups."""
    return tuple(item for group in groups for item in group)


def edit(add: Sequence[Any] = (), remove: Sequence[Any] = ()) -> Edit:
    """The change of a list."""
    return Edit(tuple(add), tuple(remove))
