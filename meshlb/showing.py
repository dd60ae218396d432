"""Shows other nodes' agents what this one counts and what happens, while somebody looks at their pages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from meshlb import thrift
from meshlb.counts import Statistics
from meshlb.elsewhere import Elsewhere
from meshlb.report import event_document, told_document
from meshlb.timeline import Timeline
from meshlb.window import Window

EVERY = 1.0  # seconds
MOST_BACKENDS = 2_000
MOST_EVENTS = 64

AskStatistics = Callable[[], Awaitable[Statistics]]
log = logging.getLogger(__name__)


async def show(statistics: AskStatistics, timeline: Timeline, elsewhere: Elsewhere) -> None:
    """Tell whenever anybody looks; never ends, and costs nothing while nobody does."""
    while True:
        await elsewhere.watched.wait()
        try:
            await _while_watched(statistics, timeline, elsewhere)
        except TimeoutError:
            log.debug("the plane is busy: other agents are not shown what it counts")
        except Exception:
            log.exception("other agents are not shown what happens here")
        await asyncio.sleep(EVERY)


async def _while_watched(statistics: AskStatistics, timeline: Timeline, elsewhere: Elsewhere) -> None:
    window, last = Window(), -1
    while elsewhere.watched.is_set():
        began = time.thread_time()
        found, at = await statistics(), time.time()
        window.look(time.monotonic(), found)
        elsewhere.show("counts", at, told_document(found, window, at, MOST_BACKENDS))
        if timeline.last != last:
            last = timeline.last
            events = [event_document(event) for event in timeline.since(last - MOST_EVENTS)]
            elsewhere.show("events", at, {"events": events})
        await asyncio.sleep(thrift.shown_pause(time.thread_time() - began, EVERY))
