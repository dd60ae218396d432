"""Who asks at the agent's socket: the next agent of this node, seen from both ends, or a command."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import meshlb
from meshlb.errors import MeshError
from meshlb.handover.agent_socket import connect
from meshlb.handover.giving import READY, SOON, Conversation, HandoverError
from meshlb.ports.inherited import Named

DEAD = 1.0  # seconds that a process which has hung up may need to be gone
ASKING = 8  # who may ask at a time

log = logging.getLogger(__name__)
Commands = Mapping[str, Callable[[], str]]  # by their words; each gives a sentence
Failures = Mapping[str, Callable[[], Awaitable[str]]]  # by the same words: what goes wrong later, if it does


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

    async def order(self, verb: str, backend: str, force: bool) -> str:
        """Do what an operator asks of a backend; a sentence about it. MeshError refuses."""

    def ordered(self) -> dict[str, str]:
        """What has been ordered, for the agent that takes over."""


class Predecessor:
    """The agent that runs, as the one that takes over from it sees it."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self._path = path
        self._talk = Conversation(sock)
        self.name = self._talk.name
        self._process = _pidfd(self._talk.pid)

    @classmethod
    def find(cls, path: Path) -> Predecessor | None:
        """None where none runs; it is refused to us by a MeshError. Blocks for seconds at most."""
        sock = connect(path)
        return None if sock is None else cls(path, sock)

    async def take(self) -> list[Named]:
        """Its sockets, on which it goes on serving. From here on its table stands still."""
        await asyncio.to_thread(self._greet)
        return await asyncio.to_thread(self._talk.take)

    def _greet(self) -> None:
        """On a new connection: whoever says nothing for seconds is hung up on, as we may have been."""
        sock = connect(self._path)
        if sock is None:
            raise HandoverError(f"the running agent ({self.name}) has ended: start this one again")
        self.close()
        self._talk = Conversation(sock)
        self.name, self._process = self._talk.name, _pidfd(self._talk.pid)
        self._talk.say("hello", release=meshlb.__version__)

    @property
    def orders(self) -> object:
        """What it had been ordered, as it told with its sockets."""
        return self._talk.orders

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
    """Hands over to an agent that asks for it: one at a time, and once. Commands are answered beside that."""

    def __init__(
        self,
        serving: Serving,
        doors: Callable[[], Iterable[Named]],
        commands: Commands = MappingProxyType({}),
        failures: Failures = MappingProxyType({}),
    ) -> None:
        self._serving, self._doors, self._commands, self._failures = serving, doors, commands, failures
        self._heir: Conversation | None = None
        self._task: asyncio.Task[None] | None = None
        self._asking = set[asyncio.Task[None]]()  # who has not said yet what for
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
        for each in self._asking:
            each.cancel()
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
        talk = Conversation(sock)
        if len(self._asking) >= ASKING:
            _refuse(talk, "too many ask at this moment")
            return
        task = asyncio.create_task(self._listen(talk))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _listen(self, talk: Conversation) -> None:
        """Hear what somebody asks for. Who says nothing only wanted to know who is here."""
        try:
            if not await _readable(talk) or talk.has_hung_up():
                talk.close()
                return
            message = talk.hear("hello", 0, "order", *self._commands)
        except HandoverError as error:
            _refuse(talk, str(error))
            log.warning("no handover: %s; this agent serves on", error)
        except asyncio.CancelledError:
            talk.close()
            raise
        else:
            await self._do(talk, message)

    async def _do(self, talk: Conversation, message: Mapping[str, object]) -> None:
        if message["word"] == "order":
            await self._order(talk, message)
        elif message["word"] in self._commands:
            await self._command(talk, str(message["word"]))
        elif talk.user not in (0, os.geteuid()):
            _refuse(talk, f"user {talk.user} may not ask this; root may")
        elif self._heir is not None:
            _refuse(talk, f"another agent ({self._heir.name}) is taking over at this moment")
        else:
            self._heir = talk
            self._task = asyncio.create_task(self._hand_over(talk))

    async def _order(self, talk: Conversation, asked: Mapping[str, object]) -> None:
        """Whoever may connect may order: the file of the socket is root's and group docker's."""
        with contextlib.closing(talk):
            good, text = await self._obey(asked)
            with contextlib.suppress(HandoverError):
                talk.say("answer", good=good, text=text)

    async def _command(self, talk: Conversation, word: str) -> None:
        """Ask another part of the agent to do it; whoever may connect may."""
        with contextlib.closing(talk), contextlib.suppress(HandoverError):
            talk.say("answer", good=True, text=self._commands[word]())
            if word in self._failures:
                talk.say("answer", good=False, text=await self._failures[word]())

    async def _obey(self, asked: Mapping[str, object]) -> tuple[bool, str]:
        words = str(asked.get("verb")), str(asked.get("backend"))
        try:
            return True, await self._serving.order(*words, asked.get("force") is True)
        except MeshError as error:
            return False, str(error)
        except Exception:
            log.exception("an order failed because of a bug in meshlb")
            return False, "a bug in meshlb: see the agent's log"

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
        async with self._serving.still:
            await self._give(heir)

    async def _give(self, heir: Conversation) -> None:
        await asyncio.to_thread(
            heir.give, [*await self._serving.kept(), *self._doors()], self._serving.ordered()
        )
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


async def _readable(talk: Conversation) -> bool:
    """Whether it says something, or hangs up, soon."""
    said, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(talk.fileno(), said.set)
    try:
        async with asyncio.timeout(SOON):
            await said.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(talk.fileno())
    return True


def _refuse(talk: Conversation, why: str) -> None:
    with contextlib.suppress(HandoverError):
        talk.say("sorry", why=why)
    talk.close()
