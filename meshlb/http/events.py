"""/api/v1/events: a bounded number of browsers hears what is new until they go, or read too slowly."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from aiohttp import web

from meshlb.http.live import Listener, Live

MOST = 16  # who listens at a time
QUIET = 10.0  # seconds without a message after which something is sent, to notice who has gone
PATIENCE = 10.0  # seconds for taking what was sent


class Streams:
    """The connections that stay open. `protocols` are theirs, for who closes those that stay too long."""

    def __init__(self, live: Live) -> None:
        self.protocols: set[Any] = set()
        self._live = live
        self._ending = False
        self._listeners: set[Listener] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The stream of one browser."""
        if len(self._listeners) >= MOST or self._ending:
            return web.Response(status=503, text=f"{MOST} listen already\n", headers={"Retry-After": "5"})
        listener, protocol = self._live.listen(), request.protocol
        self._listeners.add(listener)
        self.protocols.add(protocol)
        try:
            return await self._stream(request, listener)
        finally:
            self._live.leave(listener)
            self._listeners.discard(listener)
            self.protocols.discard(protocol)

    async def end(self, *_: object) -> None:
        """Let all go."""
        self._ending = True
        for listener in self._listeners:
            listener.look()

    async def _stream(self, request: web.Request, listener: Listener) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        with suppress(ConnectionError, TimeoutError):
            await _send(request, response, b"retry: 1000\n\n")
            while not self._ending:
                await listener.wait(QUIET)
                await _send(request, response, b"".join(listener.news()) or b":\n\n")
            return response
        if request.transport is not None:  # what it has not taken would be kept for it
            request.transport.abort()
        return response


async def _send(request: web.Request, response: web.StreamResponse, text: bytes) -> None:
    """Until it has left our memory: the next message is only made for who has taken this one."""
    async with asyncio.timeout(PATIENCE):
        await response.write(text)
        while request.transport is not None and request.transport.get_write_buffer_size():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
