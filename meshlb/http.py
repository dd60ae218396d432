"""The agent's HTTP server: /healthz says whether this node works, /status how, /counts how much."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import web

import meshlb
from meshlb.counts import Statistics
from meshlb.http_socket import BACKLOG, listening, url_of
from meshlb.model import Status
from meshlb.report import counts_document, health, health_document, status_document
from meshlb.scrape import routes

MAX_CONNECTIONS = 64
LIFETIME = 15.0  # seconds from connect to answer; who is slower is cut off

AskStatus = Callable[[], Awaitable[Status]]
AskStatistics = Callable[[], Awaitable[Statistics]]


@asynccontextmanager
async def serve(
    address: str,
    status: AskStatus,
    sockets: Sequence[socket.socket] | None = None,
    statistics: AskStatistics | None = None,
) -> AsyncIterator[str]:
    """Answer at `address` while the block runs. Gives the URL, or an empty text when `address` is empty.

    `sockets` listen there already and stay the caller's. ConfigError when the address cannot be listened on.
    """
    if not address:
        yield ""
        return
    mine = await listening(address) if sockets is None else [each.dup() for each in sockets]
    runner = web.AppRunner(
        application(status, statistics),
        access_log=None,
        handle_signals=False,
        max_line_size=2048,
        max_field_size=4096,
        lingering_time=0,
        shutdown_timeout=1,
    )
    await runner.setup()
    door = _Door(cast("web.Server", runner.server))
    try:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(door, sock=each, backlog=BACKLOG) for each in mine]
        overdue = asyncio.create_task(door.close_overdue())
        try:
            yield url_of(mine[0])
        finally:
            overdue.cancel()
            for server in servers:
                server.close()  # not wait_closed: it would wait for clients, which cleanup() ends
    finally:
        await runner.cleanup()


def application(status: AskStatus, statistics: AskStatistics | None = None) -> web.Application:
    """The pages. Whoever adds one adds a route here."""

    async def index(_request: web.Request) -> web.Response:
        return web.Response(text=f"meshlb-agent {meshlb.__version__}: see /status, /counts and /healthz\n")

    async def healthz(_request: web.Request) -> web.Response:
        now = await status()
        return _json(health_document(now), 200 if health(now)[0] else 503)

    async def status_page(_request: web.Request) -> web.Response:
        return _json(status_document(await status()))

    async def counts_page(_request: web.Request) -> web.Response:
        if statistics is None:
            raise web.HTTPNotFound
        return _json(counts_document(await statistics()))

    app = web.Application(client_max_size=1024)
    app.on_response_prepare.append(_prepare)
    app.add_routes([web.get("/", index), web.get("/healthz", healthz), web.get("/status", status_page)])
    app.add_routes([web.get("/counts", counts_page)])
    app.add_routes(routes(status, statistics))  # /metrics, /readyz, /sd
    return app


async def _prepare(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()  # a connection kept alive is one that somebody else cannot have
    response.headers["Server"] = f"meshlb/{meshlb.__version__}"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(document, status=status, dumps=lambda data: json.dumps(data, indent=2) + "\n")


class _Door:
    """Lets at most MAX_CONNECTIONS in and shows those out that stay longer than LIFETIME.

    aiohttp has no limit of either kind: it waits for ever for a first request.
    """

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def __call__(self) -> asyncio.Protocol:
        return self._server() if len(self._server.connections) < MAX_CONNECTIONS else _Refusal()

    async def close_overdue(self) -> None:
        """Two looks, LIFETIME apart: who was there at both is cut off."""
        seen: set[Any] = set()
        while True:
            await asyncio.sleep(LIFETIME)
            open_now = set(self._server.connections)
            for connection in seen & open_now:
                connection.force_close()
            seen = open_now


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        cast("asyncio.WriteTransport", transport).write(answer)
        transport.close()
