"""What a Prometheus asks an agent for: /metrics, /readyz, and /sd, where the other agents are."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from meshlb.counts import Statistics
from meshlb.model import Status
from meshlb.report import readiness, targets

SMALL = 4096  # bytes that are not worth packing

AskStatus = Callable[[], Awaitable[Status]]
AskStatistics = Callable[[], Awaitable[Statistics]]


def routes(status: AskStatus, statistics: AskStatistics | None) -> list[web.RouteDef]:
    """The pages, for an application."""
    scrape = Scrape(status, statistics)

    async def metrics(request: web.Request) -> web.Response:
        # prometheus-client is loaded by the first scrape: many agents are never asked.
        from meshlb.metrics.exposition import wanted  # noqa: PLC0415

        kind = wanted(request.headers.get("Accept", ""))
        packed = "gzip" in request.headers.get("Accept-Encoding", "")
        try:
            body = await scrape.body(kind, packed)
        except TimeoutError:
            raise web.HTTPServiceUnavailable(text="the plane is busy; ask again\n") from None
        headers = {"Content-Type": kind, "Vary": "Accept, Accept-Encoding"}
        if body.startswith(b"\x1f\x8b"):
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def readyz(_request: web.Request) -> web.Response:
        ready, sentence = readiness(await status())
        return web.Response(text=f"{sentence}\n", status=200 if ready else 503)

    async def sd(request: web.Request) -> web.Response:
        found = targets(await status(), *_asked(request))
        return web.json_response(found, dumps=lambda data: json.dumps(data, indent=2) + "\n")

    return [web.get("/metrics", metrics), web.get("/readyz", readyz), web.get("/sd", sd)]


class Scrape:
    """Writes the text in a thread: that of a large node takes a while, and the loop has others to serve.

    Who asks while the same text is being written gets that one, so a crowd costs no more than one does.
    """

    def __init__(self, status: AskStatus, statistics: AskStatistics | None) -> None:
        self._status, self._statistics = status, statistics
        self._running: dict[tuple[str, bool], asyncio.Task[bytes]] = {}

    async def body(self, kind: str, packed: bool) -> bytes:
        """What has this content type, packed where that is worth it. TimeoutError when the plane is busy."""
        key = kind, packed
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._write(*key))
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: tuple[str, bool], done: asyncio.Task[bytes]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # those who asked have been told, if they are still there

    async def _write(self, kind: str, packed: bool) -> bytes:
        status = await self._status()
        statistics = await self._statistics() if self._statistics else None
        return await asyncio.to_thread(_body, status, statistics, kind, packed)


def _body(status: Status, statistics: Statistics | None, kind: str, packed: bool) -> bytes:
    from meshlb.metrics.exposition import OPENMETRICS, PROTOBUF, text  # noqa: PLC0415
    from meshlb.metrics.families import families  # noqa: PLC0415
    from meshlb.metrics.protobuf import protobuf  # noqa: PLC0415
    from meshlb.metrics.usage import usage  # noqa: PLC0415

    found = families(status, statistics, usage())
    body = protobuf(found) if kind == PROTOBUF else text(found, kind == OPENMETRICS).encode()
    return gzip.compress(body, 1) if packed and len(body) > SMALL else body


def _asked(request: web.Request) -> tuple[str, int]:
    """The address and the port at which the agent was asked; other nodes' agents have the same port."""
    found: Any = request.transport.get_extra_info("sockname") if request.transport else None
    return (str(found[0]), int(found[1])) if found else ("127.0.0.1", 0)
