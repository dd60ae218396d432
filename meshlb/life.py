"""An agent's life: it takes the node's place, serves, gives the place on. Its parts run in one task group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import meshlb
from meshlb import access_log, logs
from meshlb.config import BEYOND_DRAIN, Config
from meshlb.elsewhere import Elsewhere
from meshlb.errors import MeshError
from meshlb.handover import systemd
from meshlb.handover.giving import Conversation, HandoverError
from meshlb.handover.place import Place, unless
from meshlb.handover.replacement import Upgrade
from meshlb.http.socket import listening, open_to_all, url_of
from meshlb.model import Snapshot, SourceStatus, Status
from meshlb.orderbook import OrderBook
from meshlb.ports.inherited import HTTP
from meshlb.process import Signals
from meshlb.serving import Plane, Serving, connections
from meshlb.showing import show

if TYPE_CHECKING:
    import socket

    from meshlb.http.access import Access

PORTS_FIRST = 0.5  # seconds that the status page waits for the first table
log = logging.getLogger("meshlb.agent")  # what is said is said of the agent
AskStatus = Callable[[], Awaitable[Status]]
Channel = Callable[[], contextlib.AbstractAsyncContextManager[None]]


async def _nothing() -> None:
    await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class Others:
    """What an agent has to do with other nodes; nothing, as it is.

    `prepare` never ends by itself and begins before there is anything to serve, `channel` is entered once
    that is served, and `leave` is called after the last connection. Serving waits for none of them.
    """

    prepare: Callable[[], Coroutine[Any, Any, None]] = _nothing
    channel: Channel = contextlib.nullcontext
    leave: Callable[[], None] = lambda: None


NOBODY = Others()


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


async def run(
    config: Config,
    source: Source,
    plane: Plane,
    signals: Signals,
    *,
    place: Place | None = None,
    others: Others = NOBODY,
    access: Access | None = None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Serve what the source says until a signal asks to stop or another agent takes over, then drain."""
    serving, place = Serving(plane, OrderBook(config.state_dir), access_log.write), place or Place()
    elsewhere, upgrade = elsewhere or Elsewhere(), Upgrade(signals.upgrade)

    async def status() -> Status:
        return await serving.status(source.status())

    async with serving, contextlib.AsyncExitStack() as doors:
        doors.callback(place.close)
        with _plain_errors():
            async with asyncio.TaskGroup() as group:
                preparing = group.create_task(others.prepare())
                parts = [group.create_task(_follow(source, serving)), preparing]
                sockets = await _take_place(config, source, serving, place, signals.stop)
                work = serving.run(), _reload(source, signals.reload), _announce(serving), place.tidy(serving)
                shown = show(serving.statistics, serving.timeline, elsewhere)
                more = serving.watch(), serving.keep(), shown, _reassure(serving)
                parts += [group.create_task(part) for part in (*work, *more)]
                await unless(signals.stop, place.settle(serving))
                page = _status_page(config, serving, status, sockets, access=access, elsewhere=elsewhere)
                await doors.enter_async_context(page)
                await doors.enter_async_context(others.channel())
                upgrading = group.create_task(upgrade.run())
                failures = {"upgrade": upgrade.failure}
                heir = await unless(signals.stop, place.give(serving, signals.commands(), failures))
                upgrading.cancel()
                if heir is not None:
                    preparing.cancel()
                    await doors.aclose()  # what we have closed the other one may open
                    await _bid_farewell(heir, upgrade, place)
                    await serving.drain(config.linger, signals.stop)
                for part in parts:
                    part.cancel()
        await _end(config, signals, serving, place)
    log.info("meshlb-agent ended")


async def _take_place(
    config: Config, source: Source, serving: Serving, place: Place, stop: asyncio.Event
) -> list[socket.socket]:
    """Become the node's agent, with the sockets of the one before. Gives those of the status page."""
    await unless(stop, place.take(serving, lambda: source.status().problem))
    sockets = await listening(config.http, place.inherited.take(HTTP))
    place.keep(HTTP, sockets)
    log.info("meshlb-agent %s started", meshlb.__version__, extra=_details(config, source, sockets))
    tls, password = config.http_certificate is not None, config.http_users is not None
    if warning := open_to_all(config.http, sockets, tls, password):
        log.warning("%s", warning)
    return sockets


@contextlib.asynccontextmanager
async def _status_page(
    config: Config,
    serving: Serving,
    status: AskStatus,
    sockets: list[socket.socket],
    *,
    access: Access | None,
    elsewhere: Elsewhere,
) -> AsyncIterator[None]:
    """The page, while inside; after the ports, where those are soon served: it takes half of the start."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PORTS_FIRST):
            await serving.first.wait()
    from meshlb.http import server as http  # noqa: PLC0415

    told = serving.statistics, serving.timeline
    async with http.serve(config.http, status, sockets, *told, access=access, elsewhere=elsewhere):
        yield


async def _bid_farewell(heir: Conversation, upgrade: Upgrade, place: Place) -> None:
    """From now on the other one is the node's agent."""
    if upgrade.pid and heir.pid == upgrade.pid:
        systemd.notify(f"MAINPID={heir.pid}")
    else:
        await asyncio.to_thread(place.forget)
    systemd.leave()
    with contextlib.suppress(HandoverError):
        await asyncio.to_thread(heir.say, "farewell")
    heir.close()
    log.info("%s has taken over", heir.name)


async def _end(config: Config, signals: Signals, serving: Serving, place: Place) -> None:
    """After SIGTERM, or when those that we had after a handover have gone or lingered for long enough."""
    if signals.stop.is_set():
        systemd.notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int((config.drain + BEYOND_DRAIN) * 1e6)}")
        if not serving.left:
            await asyncio.to_thread(place.give_up)
        left = await serving.drain(config.drain, signals.at_once)
    else:
        left = (await serving.counters()).open
    if left:
        log.warning("%s cut", connections(left))


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """A task group wraps what is raised in it. A sentence for the user comes out as it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        for error in group.exceptions:
            if isinstance(error, MeshError):
                raise error from None
        raise


def _details(config: Config, source: Source, sockets: list[socket.socket]) -> dict[str, dict[str, object]]:
    return logs.fields(
        source=config.config or source.status().kind,
        takeover=config.takeover,
        status=url_of(sockets[0], config.http_certificate is not None) if sockets else "off",
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
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            if isinstance(source, Reloadable):
                await source.reload()
        except MeshError as error:
            log.error("reload: %s", error)
        except Exception:
            log.exception("reload failed because of a bug in meshlb")
        systemd.notify("READY=1")


async def _announce(serving: Serving) -> None:
    """Tell systemd that ports are served; after ten seconds at the latest, for the Swarm may be away."""
    try:
        async with asyncio.timeout(10):
            await serving.first.wait()
    except TimeoutError:
        log.warning("nothing to serve yet: the source has told no table")
    systemd.notify("READY=1")


async def _reassure(serving: Serving) -> None:
    """Tell systemd that this agent does not hang, as long as its loop and the plane do as they are told."""
    seconds = systemd.watchdog()
    while seconds:
        if await serving.responds():
            systemd.notify("WATCHDOG=1")
        await asyncio.sleep(seconds / 3)
