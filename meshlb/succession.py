"""From one agent to the next on this node: both ends of a handover, as the event loop sees them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import meshlb
from meshlb.agent_socket import connect, peer
from meshlb.handover import READY, Conversation, HandoverError
from meshlb.inherited import Named

DEAD = 1.0  # seconds that a process which has hung up may need to be gone

log = logging.getLogger(__name__)


class Serving(Protocol):
    """What is needed of `meshlb.serving.Serving`."""

    still: asyncio.Lock

    async def kept(self) -> tuple[Named, ...]:
        """The sockets of all ports."""

    async def release(self) -> None:
        """Serve on them no longer."""

    async def resume(self) -> None:
        """Serve on them again."""

    async def leave(self) -> None:
        """They are another agent's."""


class Predecessor:
    """The agent that runs, as the one that takes over from it sees it."""

    def __init__(self, sock: socket.socket) -> None:
        self._talk = Conversation(sock)
        self.pid = self._talk.pid
        self._process = _pidfd(self.pid)

    @classmethod
    def find(cls, path: Path) -> Predecessor | None:
        """None where none runs; it is refused to us by a MeshError. Blocks for seconds at most."""
        sock = connect(path)
        return None if sock is None else cls(sock)

    async def take(self) -> list[Named]:
        """Its sockets, on which it goes on serving. From here on its table stands still."""
        await asyncio.to_thread(self._talk.say, "hello", release=meshlb.__version__)
        return await asyncio.to_thread(self._talk.take)

    async def commit(self) -> None:
        """We serve. HandoverError: it goes on as before, and we must not."""
        try:
            await asyncio.to_thread(self._talk.say, "serving")
            await asyncio.to_thread(self._talk.hear, "released")
            await asyncio.to_thread(self._talk.say, "taken")
        except HandoverError as error:
            if not await asyncio.to_thread(self._is_dead):
                raise
            log.warning("%s; this agent goes on alone", error)

    async def farewell(self) -> None:
        """Wait until it has closed what else we want to open, for seconds at most."""
        with contextlib.suppress(HandoverError):
            await asyncio.to_thread(self._talk.hear, "farewell")

    def close(self) -> None:
        """The end of the handover, good or bad."""
        self._talk.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def _is_dead(self) -> bool:
        if self._process < 0:
            return False
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        return bool(poll.poll(DEAD * 1000))


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:  # of another pid namespace, or a kernel before 5.3
        return -1


class Heirs:
    """Hands over to an agent that asks for it: one at a time, and once."""

    def __init__(self, serving: Serving, doors: Callable[[], Iterable[Named]]) -> None:
        self._serving, self._doors = serving, doors
        self._heir: Conversation | None = None
        self._task: asyncio.Task[None] | None = None
        self._deciding = False  # the new one serves: either of us must
        self._done = asyncio.Event()

    async def run(self, listener: socket.socket) -> Conversation:
        """Listen until an agent has taken over; the conversation with it, for the farewell."""
        loop = asyncio.get_running_loop()
        loop.add_reader(listener.fileno(), self._accept, listener)
        try:
            await self._done.wait()
        finally:
            loop.remove_reader(listener.fileno())
            await self._finish()
        assert self._heir is not None  # noqa: S101  it has set the event
        return self._heir

    async def _finish(self) -> None:
        """Breaks off a handover, unless it is being decided, which takes seconds at most."""
        if self._task is not None:
            if not self._deciding:
                self._task.cancel()
            await asyncio.wait([self._task])

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            log.debug("nobody asks after all: %s", error)
            return
        _, user = peer(sock)
        talk = Conversation(sock)
        if user not in (0, os.geteuid()):
            _refuse(talk, f"user {user} may not ask this; root may")
        elif self._heir is not None:
            _refuse(talk, f"process {self._heir.pid} is taking over at this moment")
        else:
            self._heir = talk
            self._task = asyncio.create_task(self._hand_over(talk))

    async def _hand_over(self, heir: Conversation) -> None:
        try:
            await self._attempt(heir)
            self._done.set()
        except HandoverError as error:
            await asyncio.to_thread(_refuse, heir, str(error))
            self._heir = None  # before it is told: who reads it may ask at once
            log.warning("no handover: %s; this agent serves on", error)
        except Exception:
            log.exception("the handover failed because of a bug in meshlb; this agent serves on")
        finally:
            self._deciding = False
            if not self._done.is_set():
                heir.close()
                self._heir = None

    async def _attempt(self, heir: Conversation) -> None:
        await asyncio.to_thread(heir.hear, "hello")
        async with self._serving.still:
            await self._give(heir)

    async def _give(self, heir: Conversation) -> None:
        await asyncio.to_thread(heir.give, [*await self._serving.kept(), *self._doors()])
        await asyncio.to_thread(heir.hear, "serving", READY)
        self._deciding = True
        await self._serving.release()
        try:
            await asyncio.to_thread(heir.say, "released")
            await asyncio.to_thread(heir.hear, "taken")
        except HandoverError:
            if not await asyncio.to_thread(heir.has_said, "taken"):
                await self._serving.resume()
                raise
        await self._serving.leave()


def _refuse(talk: Conversation, why: str) -> None:
    with contextlib.suppress(HandoverError):
        talk.say("sorry", why=why)
    talk.close()
