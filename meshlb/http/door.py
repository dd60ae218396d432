"""Who gets a connection to the page: at most so many, for at most so long, with TLS where it is wanted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from aiohttp import web

from meshlb.http.access import Access
from meshlb.http.guard import is_here
from meshlb.http.socket import BACKLOG

MAX_CONNECTIONS = 64
MAX_GREETINGS = 64  # connections that have not said yet whether they speak TLS, or have not agreed on keys
GREETING = 5.0  # seconds for that
LIFETIME = 15.0  # seconds from connect to answer; who is slower is cut off
PAUSE = 0.1  # seconds without accepting, while no descriptor is left

Protocols = Callable[[], asyncio.Protocol]


class Door:
    """Lets at most MAX_CONNECTIONS in and shows those out that stay longer than LIFETIME.

    aiohttp has no limit of either kind: it waits for ever for a first request.
    """

    def __init__(self, server: web.Server, staying: set[Any], access: Access) -> None:
        self._server, self._staying = server, staying  # `staying` may be there for longer
        self._access = access

    def __call__(self) -> asyncio.Protocol:
        self._access.look()
        return self._server() if len(self._server.connections) < MAX_CONNECTIONS else _Refusal(FULL)

    async def close_overdue(self) -> None:
        """Two looks, LIFETIME apart: who was there at both is cut off."""
        seen: set[Any] = set()
        while True:
            await asyncio.sleep(LIFETIME)
            open_now = set(self._server.connections)
            for connection in (seen & open_now) - self._staying:
                _cut_off(connection)
            seen = open_now


def _cut_off(connection: Any) -> None:
    transport = connection.transport
    connection.force_close()
    if transport is not None:
        transport.abort()  # closing alone waits for who does not read


class Reception:
    """Accepts at one socket: as the door does, but whoever comes from elsewhere has to speak TLS.

    From this machine both are understood: its commands and probes need no certificate.
    """

    def __init__(self, door: Protocols, access: Access) -> None:
        self._door, self._access = door, access
        self._greetings: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Accept; never ends."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(PAUSE)
                continue
            if len(self._greetings) >= MAX_GREETINGS:
                sock.close()
                continue
            task = asyncio.create_task(self._greet(sock))
            self._greetings.add(task)
            task.add_done_callback(self._greetings.discard)

    async def _greet(self, sock: socket.socket) -> None:
        """Errors are the client's; whoever only knocks is not worth a word."""
        loop = asyncio.get_running_loop()
        self._access.look()  # before its certificate is shown
        try:
            async with asyncio.timeout(GREETING):
                first = await _first_byte(sock)
                here = is_here(sock.getpeername()[0], sock.getsockname()[0])
                context = self._access.context if first == TLS else None
                door = self._door if context or here else lambda: _Refusal(PLAIN)
                await loop.connect_accepted_socket(door, sock, ssl=context)
        except (OSError, TimeoutError):
            sock.close()


async def open_doors(
    listeners: list[socket.socket], door: Door, access: Access
) -> list[Callable[[], object]]:
    """Accept at all of them; calling what is given ends that."""
    loop = asyncio.get_running_loop()
    if access.context is None:
        return [
            (await loop.create_server(door, sock=each, backlog=BACKLOG)).close for each in listeners
        ]  # not wait_closed: it would wait for clients, which the runner ends
    reception = Reception(door, access)
    tasks = [asyncio.create_task(reception.run(each)) for each in listeners]
    return [*(task.cancel for task in tasks), *(each.close for each in listeners)]


TLS = b"\x16"  # a handshake's first byte
FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_HINT = b"this agent speaks TLS: ask with https://\n"
PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b" % (len(_HINT), _HINT)
)


async def _first_byte(sock: socket.socket) -> bytes:
    """What the client says first, left where it is."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
    return sock.recv(1, socket.MSG_PEEK)


class _Refusal(asyncio.Protocol):
    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        with suppress(OSError):
            cast("asyncio.WriteTransport", transport).write(self._answer)
        transport.close()
