"""The agent's HTTP server: /healthz says whether this node works, /status says how."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import web

import meshlb
from meshlb.config import split_address
from meshlb.errors import ConfigError
from meshlb.model import Status
from meshlb.report import health, health_document, status_document

MAX_CONNECTIONS = 64
LIFETIME = 15.0  # seconds from connect to answer; who is slower is cut off

_BIND_ERRORS = {
    errno.EADDRINUSE: "another process (a second meshlb-agent?) listens there; stop it or choose another",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another",
    errno.EACCES: "ports below 1024 need the capability CAP_NET_BIND_SERVICE; choose a higher one",
}

AskStatus = Callable[[], Awaitable[Status]]


@asynccontextmanager
async def serve(
    address: str, status: AskStatus, sockets: Sequence[socket.socket] | None = None
) -> AsyncIterator[str]:
    """Answer at `address` while the block runs. Gives the URL, or an empty text when `address` is empty.

    `sockets` listen there already and stay the caller's. ConfigError when the address cannot be listened on.
    """
    if not address:
        yield ""
        return
    mine = await listening(address) if sockets is None else [each.dup() for each in sockets]
    runner = web.AppRunner(
        application(status),
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
        servers = [await loop.create_server(door, sock=each, backlog=MAX_CONNECTIONS) for each in mine]
        overdue = asyncio.create_task(door.close_overdue())
        try:
            yield _url(servers[0].sockets[0])
        finally:
            overdue.cancel()
            for server in servers:
                server.close()  # not wait_closed: it would wait for clients, which cleanup() ends
    finally:
        await runner.cleanup()


def application(status: AskStatus) -> web.Application:
    """The pages. Whoever adds one adds a route here."""

    async def index(_request: web.Request) -> web.Response:
        return web.Response(text=f"meshlb-agent {meshlb.__version__}: see /status and /healthz\n")

    async def healthz(_request: web.Request) -> web.Response:
        now = await status()
        return _json(health_document(now), 200 if health(now)[0] else 503)

    async def status_page(_request: web.Request) -> web.Response:
        return _json(status_document(await status()))

    app = web.Application(client_max_size=1024)
    app.on_response_prepare.append(_prepare)
    app.add_routes([web.get("/", index), web.get("/healthz", healthz), web.get("/status", status_page)])
    return app


async def _prepare(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()  # a connection kept alive is one that somebody else cannot have
    response.headers["Server"] = f"meshlb/{meshlb.__version__}"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(document, status=status, dumps=lambda data: json.dumps(data, indent=2) + "\n")


async def listening(address: str, inherited: Iterable[socket.socket] = ()) -> list[socket.socket]:
    """Sockets that listen at `address`; where one is inherited it is that one, and the others are closed."""
    left = {each.getsockname()[:2]: each for each in inherited}
    found: list[socket.socket] = []
    host, port = split_address(address) if address else ("", 0)
    try:
        for family, place in await _places(host, port) if address else []:
            at = place[:2]
            found.append(left.pop(at) if at in left else _bound(family, place))
    except socket.gaierror as error:
        raise ConfigError(f'--http {address}: "{host}" is not an address of this machine') from error
    except OSError as error:
        for each in found:
            each.close()
        reason = _BIND_ERRORS.get(error.errno or 0, error.strerror or str(error))
        raise ConfigError(f"--http {address}: cannot listen: {reason}") from error

    finally:
        for each in left.values():
            each.close()
    return found


async def _places(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Families and socket addresses that a host's name stands for, each once."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list({place: (family, place) for family, _, _, _, place in found}.values())


def _bound(family: int, place: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(MAX_CONNECTIONS)
    except OSError:
        sock.close()
        raise
    return sock


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
