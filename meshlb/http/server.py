"""The agent's HTTP server: the page, /healthz, and what programs read under /api/v1 (docs/api.md)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import web
from aiohttp.typedefs import Middleware

import meshlb
from meshlb.config import split_address
from meshlb.counts import Statistics
from meshlb.elsewhere import Elsewhere
from meshlb.http import files
from meshlb.http.access import Access, Verdict
from meshlb.http.door import Door, open_doors
from meshlb.http.events import Streams
from meshlb.http.guard import is_here, refusal
from meshlb.http.live import Live
from meshlb.http.scrape import routes
from meshlb.http.socket import listening, url_of
from meshlb.model import Status
from meshlb.report import counts_document, health, health_document, status_document
from meshlb.timeline import Timeline

# Cookies know no ports: a browser sends those of every service that is published at this host.
MOST_COOKIES = 16384  # bytes of one header
MOST_HEADERS = 64
PROBES = frozenset({"/healthz", "/readyz"})  # load balancers ask with any Host

AskStatus = Callable[[], Awaitable[Status]]
AskStatistics = Callable[[], Awaitable[Statistics]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serve(
    address: str,
    status: AskStatus,
    sockets: Sequence[socket.socket] | None = None,
    statistics: AskStatistics | None = None,
    timeline: Timeline | None = None,
    *,
    access: Access | None = None,
    elsewhere: Elsewhere | None = None,
) -> AsyncIterator[str]:
    """Answer at `address` while the block runs. Gives the URL, or an empty text when `address` is empty.

    `sockets` listen there already and stay the caller's. ConfigError when the address cannot be listened on.
    """
    if not address:
        yield ""
        return
    mine = await listening(address) if sockets is None else [each.dup() for each in sockets]
    live = Live(status, statistics, timeline or Timeline(), elsewhere)
    streams = Streams(live)
    access = access or Access()
    app = application(status, statistics, _names(address), access)
    app.add_routes([web.get("/api/v1/events", streams.answer, allow_head=False)])
    app.on_shutdown.append(streams.end)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        max_line_size=2048,
        max_field_size=MOST_COOKIES,
        max_headers=MOST_HEADERS,
        lingering_time=0,
        shutdown_timeout=1,
    )
    await runner.setup()
    door = Door(cast("web.Server", runner.server), streams.protocols, access)
    try:
        closing = await open_doors(mine, door, access)
        tasks = [asyncio.create_task(each) for each in (door.close_overdue(), live.run())]
        try:
            yield url_of(mine[0], access.context is not None)
        finally:
            for task in tasks:
                task.cancel()
            for close in closing:
                close()
    finally:
        await runner.cleanup()


def application(
    status: AskStatus,
    statistics: AskStatistics | None = None,
    names: frozenset[str] = frozenset(),
    access: Access | None = None,
) -> web.Application:
    """What is answered at once. Whoever adds a page adds a route here. `names` are those of this node."""

    async def healthz(_request: web.Request) -> web.Response:
        now = await status()
        return _json(health_document(now), 200 if health(now)[0] else 503)

    async def status_page(_request: web.Request) -> web.Response:
        return _json(status_document(await status()))

    async def counts_page(_request: web.Request) -> web.Response:
        if statistics is None:
            raise web.HTTPNotFound
        return _json(counts_document(await statistics()))

    app = web.Application(client_max_size=1024, middlewares=[_guard(names), _password(access or Access())])
    app.on_response_prepare.append(_prepare)
    app.add_routes([web.get("/", files.answer), web.get("/page/{name}", files.answer)])
    app.add_routes([web.get("/healthz", healthz), web.get("/api/v1/status", status_page)])
    app.add_routes([web.get("/api/v1/counts", counts_page)])
    app.add_routes(routes(status, statistics))  # /metrics, /readyz, /sd
    return app


def _names(address: str) -> frozenset[str]:
    """Names by which this node's page may be asked for: its own, and that of --http."""
    return frozenset({socket.gethostname().lower(), split_address(address)[0].lower()} - {""})


def _guard(names: frozenset[str]) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        ours = None if request.secure else names  # no other website has our certificate
        sentence = "" if request.path in PROBES else refusal(request.headers, ours)
        return web.Response(status=403, text=sentence) if sentence else await handler(request)

    return guard


def _password(access: Access) -> Middleware:
    """Whoever asks from elsewhere says one, where one is wanted; /readyz says nothing that is worth it."""

    @web.middleware
    async def password(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not access.password or request.path == "/readyz" or _is_here(request):
            return await handler(request)
        verdict = await access.judge(request.headers.get("Authorization", ""), request.remote or "")
        return await handler(request) if verdict is Verdict.WELCOME else _turned_away(verdict)

    return password


def _is_here(request: web.Request) -> bool:
    own: Any = request.transport.get_extra_info("sockname") if request.transport else None
    return bool(own) and is_here(request.remote or "", str(own[0]))


def _turned_away(verdict: Verdict) -> web.Response:
    if verdict is Verdict.TOO_OFTEN:
        return web.Response(status=429, text="too many wrong passwords; wait\n", headers={"Retry-After": "5"})
    asked = {"WWW-Authenticate": 'Basic realm="meshlb", charset="UTF-8"'}
    return web.Response(status=401, text="this agent asks for a name and a password\n", headers=asked)


async def _prepare(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()  # a connection kept alive is one that somebody else cannot have
    response.headers["Server"] = f"meshlb/{meshlb.__version__}"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = files.POLICY
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Referrer-Policy"] = "no-referrer"


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(document, status=status, dumps=lambda data: json.dumps(data, indent=2) + "\n")
