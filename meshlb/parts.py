"""The parts of an agent, made from its settings; each is imported only by who uses it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from meshlb import process
from meshlb.config import Config, split_address
from meshlb.elsewhere import Elsewhere
from meshlb.handover import systemd
from meshlb.handover.place import Place
from meshlb.life import NOBODY, Others, Source, run
from meshlb.process import Signals
from meshlb.static import StaticSource

if TYPE_CHECKING:
    from meshlb.advice import Advice
    from meshlb.http.access import Access

CHANNEL_AGAIN = 30.0  # seconds until a channel that broke begins anew
log = logging.getLogger("meshlb.agent")


async def compose(config: Config, replace: bool) -> None:
    """The real parts, from the settings; each is imported only by who uses it."""
    passed_on = systemd.passed_on()  # first: what is opened from here on could be taken for it
    source, access = _source(config), access_of(config)
    process.raise_file_limit()
    from meshlb.plane import Plane as RealPlane  # noqa: PLC0415
    from meshlb.ports.holder import holder_of  # noqa: PLC0415
    from meshlb.ports.listen import Listeners  # noqa: PLC0415
    from meshlb.ports.takeover import Takeover  # noqa: PLC0415

    store = systemd.SystemdStore()
    place = Place(config.socket, store)
    place.inherited.add(passed_on)
    holder = functools.partial(holder_of, proc=config.host_root / "proc")
    listeners = Listeners(Takeover(config.takeover), holder=holder, inherited=place.inherited, store=store)
    elsewhere = Elsewhere()
    others, signals = _others(config, source, elsewhere), Signals()
    with signals.handled():
        try:
            await asyncio.to_thread(place.claim, replace)
            plane = RealPlane(config.workers, listeners=listeners)
            await run(
                config,
                source,
                plane,
                signals,
                place=place,
                others=others,
                access=access,
                elsewhere=elsewhere,
            )
        finally:
            await asyncio.to_thread(listeners.shutdown)
            await asyncio.to_thread(others.leave)
            place.close()


def _source(config: Config) -> Source:
    if config.config is not None:
        return StaticSource(config.config)
    from meshlb.swarm.source import SwarmSource  # noqa: PLC0415  # a file needs no engine

    return SwarmSource()


def access_of(config: Config) -> Access | None:
    """What --http asks of who comes from elsewhere; None for nothing."""
    if not (config.http_certificate or config.http_key or config.http_users):
        return None
    from meshlb.http.access import Access  # noqa: PLC0415  # TLS that most agents start without

    return Access(config.http_certificate, config.http_key, config.http_users)


def _others(config: Config, source: Source, elsewhere: Elsewhere) -> Others:
    """It hears what the source says from the first word on, so it is made before that speaks."""
    if not config.peers or config.config is not None:
        return NOBODY
    from meshlb.advice import Advice  # noqa: PLC0415  # TLS and HTTP clients that a file does not need
    from meshlb.overlay import Overlay  # noqa: PLC0415
    from meshlb.plane import enter_namespace  # noqa: PLC0415
    from meshlb.transparent.preparing import Preparing  # noqa: PLC0415

    overlay = Overlay(enter_namespace)
    preparing = Preparing(enter_namespace)
    address, port = split_address(config.peers)
    own: Any = source
    places = config.state_dir, config.host_root
    advice = Advice(own, address, port, *places, overlay=overlay, preparing=preparing, elsewhere=elsewhere)
    return Others(advice.prepare, lambda: _advising(advice), preparing.close)


@contextlib.asynccontextmanager
async def _advising(advice: Advice) -> AsyncIterator[None]:
    task = asyncio.create_task(_advise(advice))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        advice.forget()  # who has given its place on may serve for days what connections it has


async def _advise(advice: Advice) -> None:
    """Cancelled at the end. What others have told is not believed for longer than they can be heard."""
    while True:
        try:
            await advice.run()
        except Exception:
            log.exception("the channel between agents broke; everything else goes on, and it begins anew")
        advice.forget()
        await asyncio.sleep(CHANNEL_AGAIN)
