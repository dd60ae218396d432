"""`meshlb-agent`: the agent of a node, started from its command line."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import Any

import click

from meshlb import logs, process
from meshlb.config import Config, options
from meshlb.errors import MeshError
from meshlb.handover import systemd
from meshlb.parts import access_of, compose
from meshlb.static import load
from meshlb.table import build

LASTS = 5.0  # seconds until what only the user can mend is tried again
log = logging.getLogger("meshlb.agent")  # __name__ is __main__ under python -m


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@options
def main(check: bool, keeper: bool, replace: bool, **settings: Any) -> None:
    """Serve the published ports of a Docker Swarm on this node.

    Run one agent on every node. Without options it follows the Swarm of the local Docker Engine, listens on
    every port that a service publishes (docker service create -p 80:8000 ...), and leads each connection to a
    healthy task, on whichever node it runs.

    With --config it serves the ports of a file instead, and needs no Docker.

    It ends on SIGTERM: no new connections, then those that are open get --drain seconds. To upgrade, install
    the new release and send SIGUSR2, or start it with --replace: no connection is lost.
    """
    config = Config(**settings)
    try:
        if keeper and not check:
            _become_keeper()
        sys.exit(_check(config) if check else _serve(config, replace))
    except MeshError as error:
        click.echo(f"meshlb-agent: {error}", err=True)
        if systemd.starts_us():  # again and at once, as it is to after a crash, and this lasts
            time.sleep(LASTS)
        sys.exit(1)


def _become_keeper() -> None:
    """A fresh process, which has not imported all that an agent needs."""
    _, *words = sys.orig_argv
    words.remove("--keeper")
    os.execv(sys.executable, [sys.executable, "-m", "meshlb.handover.keeper", sys.executable, *words])  # noqa: S606


def _check(config: Config) -> int:
    if config.config is None:
        raise click.UsageError("--check needs --config FILE")
    access_of(config)
    table = build(load(config.config))
    for problem in table.problems:
        click.echo(f"meshlb-agent: {config.config}: {problem}", err=True)
    if not table.problems:
        count = len(table.entries)
        click.echo(f"{config.config}: ok, {count} port{'' if count == 1 else 's'}")
    return 1 if table.problems else 0


def _serve(config: Config, replace: bool) -> int:
    handler = logs.setup(config.log_format, config.log_level)
    try:
        with asyncio.Runner(loop_factory=process.loop_factory(config.loop)) as runner:
            runner.run(compose(config, replace))
    except MeshError:
        raise
    except Exception:
        # Better no agent, which systemd restarts and a balancer notices, than half of one.
        log.critical("the agent ends because of a bug in meshlb", exc_info=True)
        return 1
    finally:
        handler.flush()  # before what is said of its end
    return 0


if __name__ == "__main__":
    main()
