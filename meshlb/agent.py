"""The supervisor: the list of the parts that make a node of the mesh, in one task group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import click

import meshlb
from meshlb import http, logs, process
from meshlb.config import Config, options, split_address
from meshlb.errors import MeshError
from meshlb.model import Snapshot, SourceStatus, Status
from meshlb.process import Signals
from meshlb.serving import Plane, Serving
from meshlb.static import StaticSource, load
from meshlb.table import build

if TYPE_CHECKING:
    from meshlb.advice import Advice

log = logging.getLogger("meshlb.agent")  # __name__ is __main__ under python -m


class Source(Protocol):
    """Where snapshots come from: the Swarm, or a static file."""

    def snapshots(self) -> AsyncIterator[Snapshot]:
        """A whole snapshot now and at every change; never ends by itself."""

    def status(self) -> SourceStatus:
        """What the source says of itself."""


@runtime_checkable
class Reloadable(Protocol):
    """A source that can be told to look again."""

    async def reload(self) -> None:
        """Look at everything anew; returns when that is done."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@options
def main(check: bool, **settings: Any) -> None:
    """Serve the published ports of a Docker Swarm on this node.

    Run one agent on every node. Without options it follows the Swarm of the local Docker Engine, listens on
    every port that a service publishes (docker service create -p 80:8000 ...), and leads each connection to a
    healthy task, on whichever node it runs.

    With --config it serves the ports of a file instead, and needs no Docker.

    It ends on SIGTERM: no new connections, then those that are open get --drain seconds.
    """
    config = Config(**settings)
    try:
        sys.exit(_check(config) if check else _serve(config))
    except MeshError as error:
        click.echo(f"meshlb-agent: {error}", err=True)
        sys.exit(1)


def _check(config: Config) -> int:
    if config.config is None:
        raise click.UsageError("--check needs --config FILE")
    table = build(load(config.config))
    for problem in table.problems:
        click.echo(f"meshlb-agent: {config.config}: {problem}", err=True)
    if not table.problems:
        count = len(table.entries)
        click.echo(f"{config.config}: ok, {count} port{'' if count == 1 else 's'}")
    return 1 if table.problems else 0


def _serve(config: Config) -> int:
    logs.setup(config.log_format, config.log_level)
    try:
        with asyncio.Runner(loop_factory=process.loop_factory(config.loop)) as runner:
            runner.run(_compose(config))
    except MeshError:
        raise
    except Exception:
        # Better no agent, which systemd restarts and a balancer notices, than half of one.
        log.critical("the agent ends because of a bug in meshlb", exc_info=True)
        return 1
    return 0


async def _compose(config: Config) -> None:
    """The real parts, from the settings; each is imported only by who uses it."""
    source = _source(config)
    process.raise_file_limit()
    from meshlb.listen import Listeners  # noqa: PLC0415
    from meshlb.plane import Plane as RealPlane  # noqa: PLC0415
    from meshlb.takeover import Takeover  # noqa: PLC0415

    listeners = Listeners(Takeover(config.takeover))
    signals = Signals()
    with signals.handled():
        try:
            plane = RealPlane(config.workers, listeners=listeners)
            async with _channel(config, source):
                await run(config, source, plane, signals)
        finally:
            await asyncio.to_thread(listeners.shutdown)


def _source(config: Config) -> Source:
    if config.config is not None:
        return StaticSource(config.config)
    from meshlb.engine import SwarmSource  # noqa: PLC0415  # the docker SDK is 20 MB that a file does not need

    return SwarmSource()


@contextlib.asynccontextmanager
async def _channel(config: Config, source: Source) -> AsyncIterator[None]:
    """The channel between agents, while inside. Serving never waits for it, nor ends with it."""
    if not config.peers or config.config is not None:
        yield
        return
    from meshlb.advice import Advice  # noqa: PLC0415  # TLS and HTTP clients that a file does not need

    advice = Advice(cast(Any, source), *split_address(config.peers), config.state_dir)
    task = asyncio.create_task(_advise(advice))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _advise(advice: Advice) -> None:
    try:
        await advice.run()
    except Exception:
        log.exception("the channel between agents broke; everything else goes on")


async def run(config: Config, source: Source, plane: Plane, signals: Signals) -> None:
    """Serve what the source says until a signal asks to stop, then drain."""
    serving = Serving(plane)

    async def status() -> Status:
        return await serving.status(source.status())

    async with http.serve(config.http, status) as url, serving:
        log.info("meshlb-agent %s started", meshlb.__version__, extra=_details(config, source, url))
        async with asyncio.TaskGroup() as group:
            parts = [
                group.create_task(_follow(source, serving)),
                group.create_task(serving.run()),
                group.create_task(_reload(source, signals.reload)),
                group.create_task(_announce(serving)),
            ]
            await signals.stop.wait()
            process.notify("STOPPING=1")
            for part in parts:
                part.cancel()
        await serving.drain(config.drain, signals.at_once)
    log.info("meshlb-agent ended")


def _details(config: Config, source: Source, url: str) -> dict[str, dict[str, object]]:
    return logs.fields(
        source=config.config or source.status().kind, takeover=config.takeover, status=url or "off"
    )


async def _follow(source: Source, serving: Serving) -> None:
    """Bring every snapshot to the plane. A source that breaks is a bug: told, and started again."""
    delay = 1.0
    while True:
        try:
            async for snapshot in source.snapshots():
                serving.offer(snapshot)
                serving.fault("source", "")
                delay = 1.0
            raise RuntimeError("the source ended")
        except MeshError as error:
            serving.fault("source", str(error))
        except Exception as error:
            log.exception("the source of tables broke; the last table is still served")
            serving.fault("source", f"a bug in meshlb, see the log: {type(error).__name__}: {error}")
        await asyncio.sleep(delay)
        delay = min(delay * 2, 30.0)


async def _reload(source: Source, asked: asyncio.Event) -> None:
    """SIGHUP: look again at everything."""
    while True:
        await asked.wait()
        asked.clear()
        process.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            if isinstance(source, Reloadable):
                await source.reload()
        except MeshError as error:
            log.error("reload: %s", error)
        except Exception:
            log.exception("reload failed because of a bug in meshlb")
        process.notify("READY=1")


async def _announce(serving: Serving) -> None:
    """Tell systemd that ports are served; after ten seconds at the latest, for the Swarm may be away."""
    try:
        async with asyncio.timeout(10):
            await serving.first.wait()
    except TimeoutError:
        log.warning("nothing to serve yet: the source has told no table")
    process.notify("READY=1")


if __name__ == "__main__":
    main()
