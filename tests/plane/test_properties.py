"""Whatever clients and tables do, in any order: every byte comes back as it was sent, and nothing leaks."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mesh import MakeServer, Mesh, Server, backend, echo, free_port, reset

from meshlb.model import BackendState
from meshlb.policy import BALANCERS, Policy

SERVERS = 3
INDEX = st.integers(0, 9)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), INDEX, st.just(0)),
        st.tuples(st.just("send"), INDEX, st.sampled_from([1, 100, 5000, 70_000])),
        st.tuples(st.just("read"), INDEX, st.integers(1, 70_000)),
        st.tuples(st.just("finish"), INDEX, st.just(0)),
        st.tuples(st.just("close"), INDEX, st.just(0)),
        st.tuples(st.just("reset"), INDEX, st.just(0)),
        st.tuples(st.just("table"), st.integers(1, 2**SERVERS - 1), st.integers(0, len(BALANCERS) - 1)),
        st.tuples(st.just("drain"), st.integers(0, SERVERS - 1), st.just(0)),
    ),
    max_size=40,
)


@dataclass
class Client:
    """A connection, and the model of it: an echo gives back what it was given."""

    socket: socket.socket
    sent: bytes = b""
    seen: bytes = b""
    finished: bool = False

    def send(self, size: int) -> None:
        if self.finished or len(self.sent) > 400_000:
            return
        data = random.Random(len(self.sent) + size).randbytes(size)
        self.socket.sendall(data)
        self.sent += data

    def read(self, size: int) -> None:
        size = min(size, len(self.sent) - len(self.seen))
        while size > 0 and (data := self.socket.recv(size)):
            self.seen += data
            size -= len(data)
        assert self.sent.startswith(self.seen)

    def finish(self) -> None:
        if not self.finished:
            self.finished = True
            self.socket.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        self.finish()
        while data := self.socket.recv(65536):
            self.seen += data
        assert self.seen == self.sent
        self.socket.close()


class World:
    """The mesh under test, three echo servers, and one port that refuses."""

    def __init__(self, mesh: Mesh, servers: list[Server]) -> None:
        self.mesh, self.servers = mesh, servers
        self.refusing = free_port()
        self.clients: list[Client] = []
        self.table(1, 0)

    def table(self, chosen: int, balance: int) -> None:
        backends = [server.backend for i, server in enumerate(self.servers) if chosen >> i & 1]
        self.mesh.serve(*backends, backend(self.refusing), policy=Policy(balance=BALANCERS[balance]))

    def drain(self, number: int) -> None:
        states = [BackendState.UP] * SERVERS
        states[number] = BackendState.DRAINING
        servers = zip(self.servers, states, strict=True)
        self.mesh.serve(*(backend(server.port, state=state) for server, state in servers))

    def step(self, name: str, number: int, size: int) -> None:
        if name == "table":
            self.table(number, size)
        elif name == "drain":
            self.drain(number)
        elif name == "connect":
            self.clients.append(Client(self.mesh.connect()))
        elif self.clients:
            self.of_client(name, self.clients[number % len(self.clients)], size)

    def of_client(self, name: str, client: Client, size: int) -> None:
        if name == "send":
            client.send(size)
        elif name == "read":
            client.read(size)
        elif name == "finish":
            client.finish()
        else:
            self.clients.remove(client)
            if name == "reset":
                reset(client.socket)
            client.socket.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_any_order_of_events(mesh: Mesh, server: MakeServer, steps: list[tuple[str, int, int]]) -> None:
    world = World(mesh, [server(echo) for _ in range(SERVERS)])
    for step in steps:
        world.step(*step)
    for client in world.clients:
        client.end()
