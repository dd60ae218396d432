"""The handover: a new agent gets the listening sockets of the one that runs; what waits in them is not lost.

    new                              old
     │ hello ─────────────────────────► its table stands still
     │ ◄───────────────────── sockets │ (in several messages)
     │ serves on them                 │ serves on them, too
     │ serving ───────────────────────►
     │ ◄──────────────────── released │ does not serve on them, but has them
     │ taken ─────────────────────────► closes them, its status page and its channel to other agents
     │ ◄──────────────────── farewell │
     ▼ is the agent of this node      ▼ ends with its last connection

Beside this stands a question of the command's: `order` (drain, pause, undrain a backend), and its `answer`.
What has been ordered goes to the new agent with the last of the sockets.

Until `taken` the old agent goes on as before when the new one dies, hangs or gives up. A message is
one JSON object in one packet, with the descriptors beside it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import meshlb
from meshlb.errors import MeshError
from meshlb.handover.agent_socket import named, peer
from meshlb.ports.inherited import Named
from meshlb.text import printable

VERSION = 1  # of the messages; another one is refused before anything has happened
SOON = 5.0  # seconds for an answer that needs no work
READY = 15.0  # seconds until the new agent serves what it was given
SIZE = 65536  # bytes of a message
MOST = 200  # descriptors in one message; the kernel takes 253
SOCKETS = 100_000  # that one agent may hand over


class HandoverError(MeshError):
    """The other agent does not answer, refuses, or says what nobody understands."""


class Conversation:
    """One end of a handover. Its calls block, each for a bounded time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self.pid, self.user = peer(sock)
        self.name = named(self.pid)
        self.orders: object = None  # what came with the sockets, as the other one tells it

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The end: the other one hears of it, and so does a call that waits in another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
            while self._socket.recv(1):  # left unread it would have the kernel throw away our last words
                pass
        self._socket.close()

    def say(self, word: str, fds: Sequence[int] = (), **details: object) -> None:
        """Send one message. HandoverError when it cannot be."""
        message = json.dumps({"meshlb": VERSION, "word": word, **details}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        end = time.monotonic() + SOON
        while True:
            try:
                self._socket.sendmsg([message], rights, socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                self._await(select.POLLOUT, end)
            except OSError:
                self.hear("sorry", 0)  # its last words, if it had any, or that it is gone

    def fileno(self) -> int:
        """To wait for what the other one says."""
        return self._socket.fileno()

    def has_hung_up(self) -> bool:
        """Whether it has gone, and has said nothing that is not heard yet."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def hear(self, word: str, seconds: float = SOON, *others: str) -> dict[str, Any]:
        """The next message, which must be this one, or one of the others, and bring no descriptors."""
        message, sockets = self._next((word, *others), time.monotonic() + seconds)
        for each in sockets:
            each.close()
        return message

    def has_said(self, word: str) -> bool:
        """Whether this is what the other one has said last; it can say nothing more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        try:
            return bool(self.hear(word, 0))
        except HandoverError:
            return False

    def give(self, named: Iterable[Named], orders: object = None) -> None:
        """Send sockets, which stay ours to close, and what has been ordered."""
        pairs = [(name, each) for name, sockets in named for each in sockets]
        for start in range(0, len(pairs), MOST):
            part = pairs[start : start + MOST]
            self.say("sockets", [each.fileno() for _, each in part], names=[name for name, _ in part])
        self.say("sockets", names=[], orders=orders)

    def take(self) -> list[Named]:
        """The sockets that are sent. All of them, or HandoverError."""
        found: list[Named] = []
        try:
            while len(found) < SOCKETS:
                message, sockets = self._next(("sockets",), time.monotonic() + SOON)
                names = message.get("names")
                fits = isinstance(names, list) and len(names) == len(sockets)
                labels = map(str, names) if fits and names else [""] * len(sockets)
                found += [(name, (each,)) for name, each in zip(labels, sockets, strict=True)]
                if not fits:
                    raise self._garbage()
                if not sockets:
                    self.orders = message.get("orders")
                    return found
            raise self._garbage()
        except HandoverError:
            for _, taken in found:
                taken[0].close()
            raise

    def _next(self, words: Sequence[str], end: float) -> tuple[dict[str, Any], list[socket.socket]]:
        data, sockets = self._receive(end)
        try:
            return self._understood(data, words), sockets
        except HandoverError:
            for each in sockets:
                each.close()
            raise

    def _receive(self, end: float) -> tuple[bytes, list[socket.socket]]:
        room = socket.CMSG_SPACE(MOST * array.array("i").itemsize)
        while True:
            try:
                data, rights, flags, _ = self._socket.recvmsg(SIZE, room, socket.MSG_CMSG_CLOEXEC)
                break
            except BlockingIOError:
                self._await(select.POLLIN, end)
            except OSError as error:
                raise HandoverError(f"the other agent ({self.name}) is gone: {error.strerror}") from None
        sockets = list(_received(rights))
        if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            for each in sockets:
                each.close()
            if not data:
                raise HandoverError(f"the other agent ({self.name}) has broken the handover off")
            raise self._garbage()
        return data, sockets

    def _understood(self, data: bytes, words: Sequence[str]) -> dict[str, Any]:
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            raise self._garbage() from None
        if not isinstance(message, dict) or not isinstance(message.get("meshlb"), int):
            raise self._garbage()
        if message["meshlb"] != VERSION:
            raise HandoverError(
                f"{self.name} hands over otherwise (version {message['meshlb']}, ours is {VERSION}); "
                "stop the one that runs, then start the new one"
            )
        if message.get("word") == "sorry":
            raise HandoverError(f"{self.name} says: {printable(str(message.get('why')))[:500]}")
        if message.get("word") not in words:
            raise self._garbage()
        return message

    def _garbage(self) -> HandoverError:
        return HandoverError(f"{self.name} says what no agent of meshlb {meshlb.__version__} understands")

    def _await(self, event: int, end: float) -> None:
        poll = select.poll()  # not select: the agent may have more than 1024 descriptors
        poll.register(self._socket, event)
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            how = f"end it with kill -9 {self.pid}" if self.pid else "end its container"
            raise HandoverError(
                f"the other agent ({self.name}) does not answer; if it hangs, {how} and start a new one"
            )


def _received(rights: Iterable[tuple[int, int, bytes]]) -> Iterator[socket.socket]:
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds = array.array("i")
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
            for fd in fds:
                try:
                    yield socket.socket(fileno=fd)
                except OSError:  # no socket
                    os.close(fd)
