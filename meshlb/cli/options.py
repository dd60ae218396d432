"""The flags of `service create` and `service update` that set one value, and what all flags ask for."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from meshlb.cli.parameters import COUNT, DURATION, Parsed
from meshlb.cluster import capability, units
from meshlb.cluster.lists import Edit
from meshlb.cluster.spec import PATHS, Changes
from meshlb.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def _command(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f'"{text}" has a quote that does not end') from error


def _shell(text: str) -> list[str]:
    return ["CMD-SHELL", text] if text else []  # the image's own then


SIZE = Parsed(units.size, "bytes")
CPUS = Parsed(units.nanocpus, "decimal")
COMMAND = Parsed(_command, "command")
RATIO = click.FloatRange(0, 1)
ORDER = click.Choice(["start-first", "stop-first"])

# Every flag that sets one value, in the order of the help. None is a switch.
_SINGLE: tuple[tuple[str, click.ParamType[Any] | None, str], ...] = (
    ("--hostname", click.STRING, "Container hostname"),
    ("-u,--user", click.STRING, "Username or UID (format: <name|uid>[:<group|gid>])"),
    ("-w,--workdir", click.STRING, "Working directory inside the container"),
    ("--entrypoint", COMMAND, "Overwrite the default ENTRYPOINT of the image"),
    ("--init/--no-init", None, "Use an init inside each container to forward signals and reap processes"),
    ("-t,--tty/--no-tty", None, "Allocate a pseudo-TTY"),
    ("--read-only/--no-read-only", None, "Mount the container's root filesystem as read only"),
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
)


def single(function: F) -> F:
    """Adds the flags that set one value, and those that make sense only together."""
    for names, kind, help_ in reversed(_SINGLE):
        settings: dict[str, Any] = {"is_flag": True, "default": None} if kind is None else {"type": kind}
        click.option(*names.split(","), help=help_, **settings)(function)
    for option in reversed(_TOGETHER):
        option(function)
    return function


_TOGETHER = (
    click.option("--no-healthcheck", is_flag=True, help="Disable any container-specified HEALTHCHECK"),
    click.option("--log-driver", help="Logging driver for the service"),
    click.option("--log-opt", multiple=True, help="Logging driver options: max-size=10m"),
    click.option("--cap-add", multiple=True, help="Add Linux capabilities"),
    click.option("--cap-drop", multiple=True, help="Drop Linux capabilities"),
    click.option(
        "--max-concurrent", type=COUNT, help="Job tasks that run at once (default: as many as --replicas)"
    ),
)


def changes(flags: Mapping[str, Any], lists: Mapping[str, Edit]) -> Changes:
    """What the flags ask for."""
    given = {name: flags.get(name.replace("-", "_")) for name in PATHS}
    return Changes(
        values={name: value for name, value in given.items() if value is not None},
        lists=lists,
        replicas=flags["replicas"],
        max_concurrent=flags["max_concurrent"],
        force=flags.get("force", False),
        no_healthcheck=flags["no_healthcheck"],
        log_driver=_log_driver(flags["log_driver"], flags["log_opt"]),
        capabilities=capability.Change(flags["cap_add"], flags["cap_drop"]),
    )


def _log_driver(name: str | None, options: Sequence[str]) -> dict[str, Any] | None:
    if not name:
        if options:
            raise ConfigError("--log-opt needs --log-driver, which says what the options are for")
        return None
    read = dict(units.pair(text, "option") for text in options)
    return {"Name": name, "Options": read} if read else {"Name": name}
