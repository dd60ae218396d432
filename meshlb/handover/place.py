"""The place of the node's one agent: taken from the agent before, kept, and given to the one after."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from meshlb.errors import MeshError
from meshlb.handover import agent_socket
from meshlb.handover.agent_socket import AgentSocket
from meshlb.handover.giving import READY, Conversation, HandoverError
from meshlb.handover.succession import Commands, Failures, Heirs, Predecessor
from meshlb.ports.inherited import Inherited, Named, NoStore, Store
from meshlb.serving import Serving

FIRST = 20.0  # seconds until a new agent must know what to serve
GRACE = 5.0  # seconds that sockets which the first table has no use for wait for the next
ABANDONED = 5.0  # seconds for connections that a new agent had when the handover failed

log = logging.getLogger(__name__)


class Place:
    """Where no path is given there is no such place, and nobody to take it from or give it to."""

    def __init__(self, path: Path | None = None, store: Store | None = None) -> None:
        self.inherited = Inherited()
        self._path, self._store = path, store or NoStore()
        self._socket: AgentSocket | None = None
        self._predecessor: Predecessor | None = None
        self._doors: list[Named] = []

    def claim(self, replace: bool) -> None:
        """Find the agent that is to be replaced; where there is none, be the agent. MeshError says why not.

        Blocks for seconds at most.
        """
        if self._path is not None:
            if replace:
                self._predecessor = Predecessor.find(self._path)
            if self._predecessor is None:
                self._socket = agent_socket.claim(self._path)

    async def take(self, serving: Serving, problem: Callable[[], str]) -> None:
        """Once we know what to serve, get the sockets of the agent before. HandoverError: it keeps them."""
        if self._predecessor is None:
            return
        try:
            async with asyncio.timeout(FIRST):
                await serving.offered.wait()
        except TimeoutError:
            raise HandoverError(
                f"there is nothing to serve yet ({problem() or 'no table'}), so the running agent ("
                f"{self._predecessor.name}) goes on"
            ) from None
        self.inherited.add(await self._predecessor.take())
        serving.orders.adopt(self._predecessor.orders, time.monotonic())

    async def settle(self, serving: Serving) -> None:
        """Once we serve, have the agent before us let go. HandoverError: it goes on, and we have let go."""
        if self._predecessor is None:
            return
        try:
            await _served(serving)
            await self._predecessor.commit()
        except (HandoverError, asyncio.CancelledError) as error:
            await serving.release()
            await serving.leave()
            if isinstance(error, HandoverError):
                await serving.drain(ABANDONED, asyncio.Event())
            raise
        log.info("took over from %s", self._predecessor.name)
        await self._predecessor.farewell()
        self._predecessor.close()
        self._predecessor = None
        await self._claim_after()

    async def give(self, serving: Serving, commands: Commands, failures: Failures) -> Conversation:
        """Wait for an agent that takes over; from then on nothing that listens is ours any more.

        What else may be asked for meanwhile are `commands`, some of which may fail later.
        """
        if self._socket is None:
            await asyncio.Event().wait()
        assert self._socket is not None  # noqa: S101  one waits for ever without
        heirs = Heirs(serving, lambda: self._doors, commands, failures)
        return await heirs.run(self._socket.listener)

    async def tidy(self, serving: Serving) -> None:
        """Close what we have inherited and have no use for."""
        await serving.first.wait()
        await asyncio.sleep(GRACE)
        async with serving.still:
            await asyncio.to_thread(lambda: self._store.drop(self.inherited.clear()))

    def keep(self, name: str, sockets: Iterable[socket.socket]) -> None:
        """These belong to the place, and go to the next agent."""
        self._doors.append((name, tuple(sockets)))
        self._store.keep(*self._doors[-1])

    def give_up(self) -> None:
        """This agent ends on purpose: nobody need keep its sockets."""
        self._store.drop([name for name, _ in self._doors] + self.inherited.clear())

    def forget(self) -> None:
        """An agent that we have not started has the place: nobody need keep our sockets."""
        self._store.drop_all()

    def close(self) -> None:
        """Give everything back."""
        self.inherited.clear()
        for _, sockets in self._doors:
            for each in sockets:
                each.close()
        self._doors.clear()
        if self._predecessor is not None:
            self._predecessor.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _claim_after(self) -> None:
        assert self._path is not None  # noqa: S101  there was a predecessor
        try:
            self._socket = await asyncio.to_thread(agent_socket.claim, self._path, after=True)
        except MeshError as error:
            log.error("this agent cannot be asked to hand over: %s", error)


async def _served(serving: Serving) -> None:
    try:
        async with asyncio.timeout(READY * 0.8):
            await serving.first.wait()
    except TimeoutError:
        raise HandoverError("this agent did not come to serve in time; the running one goes on") from None


async def unless(stopped: asyncio.Event, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` gives; it is cancelled, and the result None, when `stopped` comes first."""
    task, stop = asyncio.create_task(work), asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stop.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
