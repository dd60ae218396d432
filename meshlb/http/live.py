"""What the page shows, kept new: looked at once for all who listen, and told as server-sent events.

Nothing is queued. Of a status and of counts only the newest is kept, and the timeline has its own end: who
reads slowly misses what was in between, not what is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from meshlb import thrift
from meshlb.counts import Statistics
from meshlb.elsewhere import Elsewhere
from meshlb.model import ChannelStatus, Counters, Status
from meshlb.report import event_document, live_document, status_document
from meshlb.timeline import Timeline, of_failovers, of_nodes
from meshlb.window import Window

log = logging.getLogger(__name__)

WATCHED = 0.25  # seconds between two looks while somebody listens
ALONE = 1.0  # while nobody does: nodes and failovers are for the timeline all the same
COUNTS = 1.0  # seconds between two messages with counts
FAILOVERS = 10.0  # between two events about them

AskStatus = Callable[[], Awaitable[Status]]
AskStatistics = Callable[[], Awaitable[Statistics]]


class Live:
    """The newest status and counts as messages, and who waits for them. `run` looks for what is new."""

    def __init__(
        self,
        status: AskStatus,
        statistics: AskStatistics | None,
        timeline: Timeline,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.messages: dict[str, tuple[int, bytes]] = {}  # the newest of each kind, with its number
        self.timeline = timeline
        self._status, self._statistics = status, statistics
        self._elsewhere = elsewhere or Elsewhere()
        self._relayed: dict[tuple[str, str], int] = {}  # the numbers of what other agents told
        self._telling: set[str] = set()
        self._listeners: set[Listener] = set()
        self._wake = asyncio.Event()
        self._number = 0
        self._announced: tuple[int, int] | None = None  # what was newest when listeners were told to look
        self._shown: Status | None = None
        self._window = Window()
        self._counted_at = 0.0
        self._channel: ChannelStatus | None = None
        self._failovers: dict[str, int] = {}  # by what clients know of a port
        self._failed_over, self._told_at = 0, -FAILOVERS

    def listen(self) -> Listener:
        """One more who listens, until `leave`."""
        listener = Listener(self)
        if not self._listeners:  # what is kept is old, and a minute's window may not have a gap
            self.messages.clear()
            self._relayed.clear()
            self._telling.clear()
            self._shown, self._window, self._counted_at = None, Window(), 0.0
        self._listeners.add(listener)
        self._announced = None
        self._wake.set()
        return listener

    def leave(self, listener: Listener) -> None:
        """It listens no more."""
        self._listeners.discard(listener)

    async def run(self) -> None:
        """Look for what is new, as often as anybody needs it; never ends."""
        while True:
            began = time.thread_time()
            try:
                await self.look()
            except TimeoutError:
                log.debug("the plane is busy: the page does not learn what is new")
            except Exception:
                log.exception("the page does not learn what is new")
            cost, least = time.thread_time() - began, WATCHED if self._listeners else ALONE
            with suppress(TimeoutError):
                async with asyncio.timeout(thrift.shown_pause(cost, least)):
                    await self._wake.wait()
            self._wake.clear()

    async def look(self) -> None:
        """Look once."""
        self._elsewhere.look(bool(self._listeners))
        status = await self._status()
        self._look_at_nodes(status)
        await self._look_at_failovers(status)
        if self._listeners:
            self._show(status)
            due = time.monotonic() - self._counted_at >= COUNTS
            if due:
                await self._count()
            self._relay(counts=due)
        newest = self._number, self.timeline.last
        if newest != self._announced:
            self._announced = newest
            for listener in self._listeners:
                listener.look()

    def _look_at_nodes(self, status: Status) -> None:
        names = {node.address: node.name for node in status.snapshot.nodes}
        self.timeline.tell(of_nodes(self._channel, status.source.channel, names))
        self._channel = status.source.channel

    async def _look_at_failovers(self, status: Status) -> None:
        now, count = time.monotonic(), status.counters.failovers
        services = {str(each.port): each.service for each in status.ports}
        # One that is closed and served again counts from 0.
        self._failovers = {port: known for port, known in self._failovers.items() if port in services}
        self._failed_over = min(self._failed_over, count)
        if self._statistics is None or count == self._failed_over or now - self._told_at < FAILOVERS:
            return
        found = {str(port): counts.failovers for port, counts in (await self._statistics()).of_ports()}
        self.timeline.tell(of_failovers(self._failovers, found, services))
        self._failovers, self._failed_over, self._told_at = found, count, now

    def _show(self, status: Status) -> None:
        calm = _without_counts(status)
        if calm != self._shown:
            self._shown = calm
            self._publish("status", status_document(status))

    async def _count(self) -> None:
        now = time.monotonic()
        if self._statistics is not None:
            found = await self._statistics()
            self._window.look(now, found)
            self._publish("counts", live_document(found, self._window, time.time()))
        self._counted_at = now

    def _relay(self, counts: bool) -> None:
        """What other agents have told, and which of them tell what they count.

        Their `counts` go with our own, as one message: each costs as much as what it says.
        """
        told = self._elsewhere.told()
        for key, each in told.items():
            kind, _ = key
            known = self._relayed.get(key)
            if known is None or (known != each.number and (counts or kind != "counts")):
                self._relayed[key] = each.number
                self._keep(" ".join(key), event(f"node-{kind}", each.text))
        for key in self._relayed.keys() - told.keys():
            del self._relayed[key], self.messages[" ".join(key)]
        telling = {address for kind, address in told if kind == "counts"}
        if telling != self._telling:
            self._telling = telling
            self._publish("told", {"nodes": sorted(telling)})

    def _publish(self, kind: str, document: dict[str, Any]) -> None:
        self._keep(kind, message(kind, document))

    def _keep(self, name: str, told: bytes) -> None:
        self._number += 1
        self.messages[name] = self._number, told


class Listener:
    """Somebody who hears of everything that is new, and first of all that is."""

    def __init__(self, live: Live) -> None:
        self._live, self._heard, self._event = live, dict[str, int](), 0
        self._new = asyncio.Event()

    def look(self) -> None:
        """There may be something new."""
        self._new.set()

    async def wait(self, seconds: float) -> None:
        """Until there may be something new, or for this long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._new.wait()
        self._new.clear()

    def news(self) -> list[bytes]:
        """The messages that this one has not had."""
        new = [
            (kind, *known) for kind, known in self._live.messages.items() if self._heard.get(kind) != known[0]
        ]
        self._heard.update({kind: number for kind, number, _ in new})
        events = self._live.timeline.since(self._event)
        self._event = self._live.timeline.last
        told = [message("events", [event_document(event) for event in events])] if events else []
        return [text for _, _, text in new] + told


def message(kind: str, document: dict[str, Any] | Iterable[dict[str, Any]]) -> bytes:
    """A server-sent event."""
    return event(kind, json.dumps(document, separators=(",", ":")))


def event(kind: str, text: str) -> bytes:
    """The same of what is JSON already: that of ASCII alone has no line ends."""
    return f"event: {kind}\ndata: {text}\n\n".encode("ascii")


def _without_counts(status: Status) -> Status:
    """What makes a status another one: not that something was counted meanwhile."""
    channel = status.source.channel
    calm = replace(channel, heard=0, stale=0, refused=0) if channel else None
    return replace(status, counters=Counters(), unlogged=0, source=replace(status.source, channel=calm))
