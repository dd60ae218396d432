"""What both parties of a connection see through the plane is what they see without it, case by case.

A case is two scripts, one for each party. Both are run over a direct connection, then through the plane;
whatever the parties note (bytes, ends, errors, marks) must be the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from mesh import MIB, MakeServer, Mesh, backend, exactly, reset
from waiting import eventually

PATIENCE = 20.0
SIOCATMARK = 0x8905


@dataclass
class Party:
    """One end of a connection, and what it has noted. `told` is shared by both: what has happened already."""

    sock: socket.socket
    told: dict[str, threading.Event]
    notes: list[object] = field(default_factory=list)

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def await_data(self) -> None:
        """Until there is something to hear, of which nothing is heard yet."""
        select.select([self.sock], [], [], PATIENCE)

    def hear(self, size: int) -> None:
        self.notes.append(exactly(self.sock, size))

    def hear_all(self) -> None:
        """Everything until the end, and how it ended."""
        digest, size = hashlib.sha256(), 0
        try:
            while data := self.sock.recv(1 << 16):
                digest.update(data)
                size += len(data)
            self.notes += [size, digest.hexdigest(), "end"]
        except OSError as error:
            self.notes += [size, digest.hexdigest(), name(error)]

    def hear_end(self) -> None:
        """How it ends, however much comes before."""
        try:
            while self.sock.recv(1 << 16):
                pass
            self.notes.append("end")
        except OSError as error:
            self.notes.append(name(error))

    def hear_marks(self) -> None:
        """Everything until the end, urgent bytes in their places."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        heard: list[str] = []
        while True:
            marked = at_mark(self.sock)
            byte = self.sock.recv(1)
            if not byte:
                break
            heard.append(("!" if marked else "") + byte.decode())
        self.notes.append("".join(heard))

    def say_urgent(self, data: bytes) -> None:
        self.sock.send(data, socket.MSG_OOB)

    def say_until_refused(self) -> None:
        """Goes on speaking to somebody who has gone."""
        end = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < end:
                self.sock.send(b"still there?")
                time.sleep(0.02)
        except OSError as error:
            self.notes.append(name(error))

    def stuff(self) -> int:
        """Speaks until nothing more is taken for a while; how much was."""
        self.sock.settimeout(0.5)
        taken = 0
        with contextlib.suppress(TimeoutError):
            while True:
                taken += self.sock.send(bytes(MIB))
        self.sock.settimeout(PATIENCE)
        return taken

    def fin(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def rst(self) -> None:
        reset(self.sock)

    def tell(self, what: str) -> None:
        self.told.setdefault(what, threading.Event()).set()

    def await_told(self, what: str) -> None:
        assert self.told.setdefault(what, threading.Event()).wait(PATIENCE), what


def name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def at_mark(sock: socket.socket) -> bool:
    """Waits until something can be read, and says whether it is urgent."""
    select.select([sock], [], [], PATIENCE)
    return bool(struct.unpack("i", fcntl.ioctl(sock, SIOCATMARK, bytes(4)))[0])


Script = Callable[[Party], None]
DATA = os.urandom(8 * MIB)


def do(*steps: Callable[[Party], object]) -> Script:
    def script(party: Party) -> None:
        for step in steps:
            step(party)

    return script


def both_ways(party: Party) -> None:
    def speak() -> None:
        party.say(DATA)
        party.fin()

    speaker = threading.Thread(target=speak)
    speaker.start()
    party.hear_all()
    speaker.join()


def ping(party: Party) -> None:
    for number in range(200):
        party.say(bytes([number]))
        party.hear(1)


def pong(party: Party) -> None:
    for _ in range(200):
        party.hear(1)
        party.say(b"p")


def dribble(party: Party) -> None:
    for number in range(500):
        party.say(bytes([number & 255]))


def note_poll(party: Party) -> None:
    """What poll says once the other has ended its half."""
    poll = select.poll()
    poll.register(party.sock, select.POLLIN | select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        events = poll.poll(100)
        if events and events[0][1] & (select.POLLRDHUP | select.POLLERR):
            party.notes.append(events[0][1])
            return


def note_error(party: Party) -> None:
    """The error that the socket has once the connection is over."""
    poll = select.poll()
    poll.register(party.sock, 0)
    poll.poll(PATIENCE * 1000)
    party.notes.append(party.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def urgent_singly(party: Party) -> None:
    """Each urgent byte is heard before the next: a second one would take the place of the first."""
    for number in range(3):
        party.say(b"abc")
        party.say_urgent(b"U")
        party.say(b"def")
        party.await_told(f"heard {number}")
    party.fin()


def hear_urgent_singly(party: Party) -> None:
    party.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    for number in range(3):
        heard = ""
        for _ in range(7):
            heard += "!" if at_mark(party.sock) else ""
            heard += party.sock.recv(1).decode()
        party.notes.append(heard)
        party.tell(f"heard {number}")
    party.hear_end()


def pause(seconds: float) -> Script:
    return lambda party: time.sleep(seconds)


def say(data: bytes) -> Script:
    return lambda party: party.say(data)


def hear(size: int) -> Script:
    return lambda party: party.hear(size)


def urgent(data: bytes) -> Script:
    return lambda party: party.say_urgent(data)


def tell(what: str) -> Script:
    return lambda party: party.tell(what)


def told(what: str) -> Script:
    return lambda party: party.await_told(what)


P = Party
CASES: dict[str, tuple[Script, Script]] = {
    "question and answer, the client closes": (
        do(say(b"q"), hear(3), P.close),
        do(hear(1), say(b"ans"), P.hear_all),
    ),
    "question and answer, the server closes": (do(say(b"q"), P.hear_all), do(hear(1), say(b"ans"), P.close)),
    "the server speaks first": (do(hear(5), say(b"x"), P.hear_all), do(say(b"hello"), hear(1), P.close)),
    "both speak at once": (do(say(b"client"), hear(6), P.close), do(say(b"server"), hear(6), P.hear_all)),
    "the client ends its half before the answer": (
        do(say(b"q"), P.fin, P.hear_all),
        do(P.hear_all, say(b"answer"), P.close),
    ),
    "the client ends its half before it says anything": (
        do(P.fin, P.hear_all),
        do(P.hear_all, say(DATA), P.close),
    ),
    "the server ends its half at once": (do(P.hear_all, say(DATA), P.close), do(P.fin, P.hear_all)),
    "the server ends its half after the first bytes": (
        do(say(b"x"), P.hear_all, say(DATA), P.fin, P.close),
        do(hear(1), say(b"last words"), P.fin, P.hear_all),
    ),
    "both end at the same time": (
        do(say(b"x"), hear(1), P.fin, P.hear_all),
        do(say(b"y"), hear(1), P.fin, P.hear_all),
    ),
    "nobody says anything": (do(P.close), do(P.hear_all)),
    "the server closes at once": (do(P.hear_all), do(P.close)),
    "single bytes to and fro": (do(ping, P.close), do(pong, P.hear_all)),
    "five hundred single bytes": (do(dribble, P.fin, P.hear_all), do(P.hear_all, dribble, P.close)),
    "eight megabytes both ways at once": (both_ways, both_ways),
    "a long answer to nothing": (do(P.hear_all), do(say(DATA), P.close)),
    "the client resets": (
        do(say(b"x"), hear(1), P.rst),
        do(hear(1), say(b"y"), P.hear_all),
    ),
    "the server resets": (do(say(b"x"), hear(1), P.hear_all), do(hear(1), say(b"y"), tell("said"), P.rst)),
    "the server resets without a word": (do(P.hear_all), do(pause(0.2), P.rst)),
    "the server resets in the middle of its answer": (
        do(say(b"x"), P.hear_all),
        do(hear(1), say(DATA[:5000]), pause(0.2), P.rst),
    ),
    "the server closes before it has read all": (
        do(say(b"x" * 5000), P.hear_all),
        do(hear(1), say(b"enough"), P.close),
    ),
    "the client closes before it has read all": (
        do(say(b"x"), told("said"), P.await_data, P.close),
        do(hear(1), say(b"y" * 5000), tell("said"), P.hear_all),
    ),
    "the client resets after its half": (
        do(say(b"x"), P.fin, hear(1), told("heard"), P.rst),
        do(hear(1), say(b"y"), P.hear_all, tell("heard"), P.say_until_refused),
    ),
    "the server resets after the client's half": (
        do(say(b"x"), P.fin, hear(1), P.hear_all),
        do(hear(1), say(b"y"), pause(0.2), P.rst),
    ),
    "the server resets after its own half": (
        do(say(b"x"), hear(1), P.hear_all, tell("ended"), P.say_until_refused),
        do(hear(1), say(b"y"), P.fin, told("ended"), P.rst),
    ),
    "the client speaks to a server that has closed": (
        do(say(b"x"), hear(1), P.hear_all, P.say_until_refused),
        do(hear(1), say(b"y"), P.close),
    ),
    "the server speaks to a client that has closed": (
        do(say(b"x"), hear(1), P.close),
        do(hear(1), say(b"y"), P.hear_all, P.say_until_refused),
    ),
    "poll after the server's half": (
        do(say(b"x"), hear(1), note_poll, P.close),
        do(hear(1), say(b"y"), P.fin, P.hear_all),
    ),
    "poll after the client's half": (
        do(say(b"x"), hear(1), P.fin, P.hear_all),
        do(hear(1), say(b"y"), note_poll, P.close),
    ),
    "the error of a reset, at the client": (
        do(say(b"x"), hear(1), note_error),
        do(hear(1), say(b"y"), P.rst),
    ),
    "the error of a reset, at the server": (
        do(say(b"x"), hear(1), P.rst),
        do(hear(1), say(b"y"), note_error),
    ),
    "the server does not read for a while": (
        do(P.stuff, tell("stuffed"), P.fin, P.hear_all),
        do(told("stuffed"), pause(1), P.hear_end, say(b"read"), P.close),
    ),
    "the client does not read for a while": (
        do(told("stuffed"), pause(1), P.hear_end, say(b"read"), P.close),
        do(P.stuff, tell("stuffed"), P.fin, P.hear_all),
    ),
    "the client resets while the server does not read": (
        do(P.stuff, P.rst, tell("reset")),
        do(told("reset"), pause(0.2), P.hear_end),
    ),
    "the server resets while the client does not read": (
        do(told("reset"), pause(0.2), P.hear_end),
        do(P.stuff, P.rst, tell("reset")),
    ),
    "urgent bytes to the server": (urgent_singly, hear_urgent_singly),
    "urgent bytes to the client": (hear_urgent_singly, urgent_singly),
    "an urgent byte comes last": (
        do(say(b"abc"), urgent(b"U"), pause(0.1), P.fin, P.hear_all),
        do(P.hear_marks, P.close),
    ),
    "an urgent byte comes first from the server": (
        do(P.hear_marks, P.close),
        do(urgent(b"U"), pause(0.1), say(b"abc"), P.fin, P.hear_all),
    ),
    "an urgent byte amid a stream": (
        do(say(b"a" * 300), urgent(b"U"), pause(0.1), say(b"b" * 300), P.fin, P.hear_all),
        do(P.hear_marks, P.close),
    ),
}


def play(client: Script, server: Script, make: MakeServer, route: Callable[[int], int]) -> list[Any]:
    """Runs both scripts; what the client and the server have noted."""
    shared: dict[str, threading.Event] = {}
    parties: list[Party] = []

    def serve(connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        parties.append(Party(connection, shared))
        server(parties[-1])

    behind = make(serve)
    with socket.create_connection(("127.0.0.1", route(behind.port)), PATIENCE) as sock:
        party = Party(sock, shared)
        client(party)
    eventually(lambda: bool(parties), timeout=PATIENCE, what="the server to be connected")
    behind.close()
    (other,) = parties
    return [party.notes, other.notes, [str(error) for error in behind.errors]]


@pytest.mark.parametrize(("client", "server_script"), CASES.values(), ids=CASES)
def test_as_direct(mesh: Mesh, server: MakeServer, client: Script, server_script: Script) -> None:
    def through(number: int) -> int:
        mesh.serve(backend(number))
        return mesh.port.published

    direct = play(client, server_script, server, lambda number: number)
    assert play(client, server_script, server, through) == direct


def test_an_urgent_byte_that_comes_first_may_lose_its_mark(mesh: Mesh, server: MakeServer) -> None:
    """The one difference: asking whether a connection begins with its mark would cost every connection."""

    def through(number: int) -> int:
        mesh.serve(backend(number))
        return mesh.port.published

    client = do(urgent(b"U"), pause(0.1), say(b"abc"), P.fin, P.hear_all)
    _, (heard,), errors = play(client, do(P.hear_marks, P.close), server, through)
    assert (heard.replace("!", ""), errors) == ("Uabc", [])
