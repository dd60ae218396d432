"""What managers know, on its way from their agents to the others: between the engine and the channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from meshlb.model import Desired, Standing
from meshlb.peers import Peers


class Source(Protocol):
    """What is needed of `meshlb.engine.SwarmSource`."""

    on_standing: Callable[[Standing], None]

    def advise(self, desired: Desired) -> None:
        """Take what a manager's agent knows."""


class Advice:
    """Tells the other agents what this node knows as a manager, or takes it from those that do."""

    def __init__(self, source: Source, address: str, port: int) -> None:
        self._source, self._address, self._port = source, address, port
        self._standing = Standing()
        self._changed = asyncio.Event()
        source.on_standing = self._take

    async def run(self) -> None:
        """Serve until cancelled."""
        root = await self._first_root()
        peers = Peers(root, address=self._address, port=self._port, on_desired=self._source.advise)
        async with asyncio.TaskGroup() as group:
            group.create_task(peers.run())
            while True:
                standing = self._standing
                peers.publish(standing.desired)
                peers.connect(() if standing.desired is not None else standing.managers)
                await self._next()

    def _take(self, standing: Standing) -> None:
        self._standing = standing
        self._changed.set()

    async def _first_root(self) -> Path:
        while not self._standing.root:
            await self._next()
        return Path(self._standing.root)

    async def _next(self) -> None:
        await self._changed.wait()
        self._changed.clear()
