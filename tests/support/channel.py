"""Agents' ends of the channel on loopback, and peers that do what they like."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from meshlb.model import Desired, Remote, Service
from meshlb.peers.channel import Peers
from meshlb.peers.client import Pace
from meshlb.peers.identity import MANAGER, load, peer_of
from meshlb.peers.message import FORMER
from meshlb.peers.shown import Shown

HERE, THERE = "127.0.0.1", "127.0.0.9"  # where agents that are asked serve, and where those that ask
PATIENCE = 15.0
PACE = Pace(heartbeat=0.4, first_delay=0.05, last_delay=0.2, grace=0.4, look=0.05, tick=0.02)


class Agent:
    """One agent's end of the channel, and what it heard."""

    def __init__(self, root: Path, port: int = 0, pace: Pace = PACE, address: str = THERE) -> None:
        self.heard: list[Desired] = []
        self.remote: list[Remote] = []
        self.shown: list[tuple[str, Shown]] = []
        self.watched: list[bool] = []
        self.peers = Peers(
            root,
            port=port,
            address=address,
            on_desired=self.heard.append,
            on_remote=self.remote.append,
            on_shown=lambda address, told: self.shown.append((address, told)),
            on_watched=self.watched.append,
            pace=pace,
        )

    @property
    def is_informed(self) -> bool:
        """Whether it has looked at its certificate; before that it refuses everybody."""
        return bool(self.peers._keeper.current or self.peers.problem)


@contextlib.asynccontextmanager
async def running(root: Path, port: int = 0, pace: Pace = PACE, address: str = THERE) -> AsyncIterator[Agent]:
    agent = Agent(root, port, pace, address)
    task = asyncio.create_task(agent.peers.run())
    try:
        yield agent
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


@contextlib.asynccontextmanager
async def telling(root: Path, state: Desired, port: int = 0, pace: Pace = PACE) -> AsyncIterator[Agent]:
    async with running(root, port, pace, HERE) as agent:
        agent.peers.publish(state)
        await until(lambda: agent.peers.port and agent.is_informed, "the manager to listen")
        yield agent


async def until(predicate: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not predicate():  # noqa: ASYNC110  # other threads and sockets change it
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {PATIENCE:g} s in vain for {what}") from None


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def state(name: str) -> Desired:
    return Desired((Service("id", name, (), ()),))


@contextlib.asynccontextmanager
async def connected(
    port: int, root: Path, protocols: tuple[str, ...] = (FORMER,), path: str = "/peers"
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket of the test's own, with the certificate in `root`; it speaks as agents did before."""
    context = load(root).client
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"https://{HERE}:{port}{path}", ssl=context, server_hostname=MANAGER, protocols=protocols
        ) as link,
    ):
        yield link


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[web.BaseRequest], Coroutine[Any, Any, web.StreamResponse]], context: ssl.SSLContext
) -> AsyncIterator[int]:
    """A peer that does what it likes."""
    below: list[asyncio.WriteTransport] = []  # TLS: one that is closed cannot be aborted any more

    async def handle_noted(request: web.BaseRequest) -> web.StreamResponse:
        transport: Any = request.transport
        below.append(transport._ssl_protocol._transport)
        return await handle(request)

    server = web.Server(handle_noted)
    listener = await asyncio.get_running_loop().create_server(server, HERE, 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await server.shutdown(0.1)
        for transport in below:
            transport.abort()  # closing would wait for an end that reads no more
        await asyncio.sleep(0)


async def shown(port: int, root: Path) -> str:
    """The node id in the certificate that is shown at `port`."""
    _, writer = await asyncio.open_connection(HERE, port, ssl=load(root).client, server_hostname=MANAGER)
    try:
        return peer_of(writer.get_extra_info("ssl_object")).node_id
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
