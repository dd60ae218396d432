"""What each policy does to real connections."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from mesh import MIB, Handler, MakeServer, Mesh, backend, echo, exactly, free_port
from waiting import eventually

from meshlb.model import BackendState, PortCounts
from meshlb.policy import BALANCERS, Policy
from meshlb.table import Backend, Table

SAID = 15  # bytes, more than three seconds


def named(name: bytes) -> Handler:
    def handle(connection: socket.socket) -> None:
        while connection.recv(1024):
            connection.sendall(name)

    return handle


def ask(mesh: Mesh, say: bytes = b"who") -> bytes:
    with mesh.connect() as client:
        client.sendall(say)
        return client.recv(64)


def ask_from(mesh: Mesh, number: int) -> bytes:
    """The same from one of many addresses."""
    with socket.create_connection(
        ("127.0.0.1", mesh.port.published), 30, source_address=(f"127.0.7.{number}", 0)
    ) as client:
        client.sendall(b"who")
        return client.recv(64)


def counts(mesh: Mesh) -> PortCounts:
    return mesh.port_counts()


def was_reset(client: socket.socket) -> bool:
    """Whether it was, or is within the test's patience."""
    client.settimeout(30)
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def turned_away(mesh: Mesh, address: str = "127.0.0.1") -> bool:
    """Whether a new connection is reset, which may be while it is still being made."""
    try:
        with mesh.connect(address=address) as client:
            return was_reset(client)
    except ConnectionResetError:
        return True


def weighted(one: Backend, weight: int) -> Backend:
    return replace(one, weight=weight)


# Balancers


def test_weights_are_exact(mesh: Mesh, server: MakeServer) -> None:
    one, two, three = (server(named(name)).backend for name in (b"1", b"2", b"3"))
    mesh.serve(one, weighted(two, 2), weighted(three, 3))
    assert Counter(ask(mesh) for _ in range(60)) == {b"1": 10, b"2": 20, b"3": 30}


def test_leastconn_fills_the_emptiest(mesh: Mesh, server: MakeServer) -> None:
    names = (b"a", b"b", b"c")
    mesh.serve(*(server(named(name)).backend for name in names), policy=Policy(balance="leastconn"))
    with contextlib.ExitStack() as stack:
        held: dict[bytes, list[socket.socket]] = {name: [] for name in names}
        for _ in range(30):
            client = stack.enter_context(mesh.connect())
            client.sendall(b"who")
            held[client.recv(64)].append(client)
        assert {name: len(clients) for name, clients in held.items()} == dict.fromkeys(names, 10)
        for client in held[b"b"]:
            client.close()
        eventually(lambda: mesh.counters().open == 20, timeout=30, what="the connections of b to end")
        assert {ask_and_hold(mesh, stack) for _ in range(10)} == {b"b"}


def test_leastconn_fills_by_weight(mesh: Mesh, server: MakeServer) -> None:
    """Whoever has the fewest for its weight is next, so that six more are one, two and three more."""
    one, two, three = (server(named(name)).backend for name in (b"1", b"2", b"3"))
    mesh.serve(one, weighted(two, 2), weighted(three, 3), policy=Policy(balance="leastconn"))
    with contextlib.ExitStack() as stack:
        held: Counter[bytes] = Counter()
        for round_of_six in range(1, 5):
            held.update(ask_and_hold(mesh, stack) for _ in range(6))
            assert held == {b"1": round_of_six, b"2": 2 * round_of_six, b"3": 3 * round_of_six}


def ask_and_hold(mesh: Mesh, stack: contextlib.ExitStack) -> bytes:
    client = stack.enter_context(mesh.connect())
    client.sendall(b"who")
    return client.recv(64)


@pytest.mark.parametrize("balance", ["random", "p2c"])
def test_random_balancers_use_everybody(mesh: Mesh, server: MakeServer, balance: str) -> None:
    mesh.serve(*(server(named(name)).backend for name in (b"a", b"b", b"c")), policy=Policy(balance=balance))
    shares = Counter(ask(mesh) for _ in range(90))
    assert len(shares) == 3
    assert min(shares.values()) >= 10


def test_a_source_keeps_its_backend(mesh: Mesh, server: MakeServer) -> None:
    backends = [server(named(name)).backend for name in (b"a", b"b", b"c", b"d")]
    mesh.serve(*backends, policy=Policy(balance="source"))

    before = {number: ask_from(mesh, number) for number in range(1, 60)}
    assert before == {number: ask_from(mesh, number) for number in range(1, 60)}
    assert len(set(before.values())) == 4
    mesh.serve(*reversed(backends[1:]), policy=Policy(balance="source"))
    after = {number: ask_from(mesh, number) for number in range(1, 60)}
    stayed = [before[number] == after[number] for number in before if before[number] != b"a"]
    assert sum(stayed) / len(stayed) > 0.85
    mesh.serve(*backends, policy=Policy(balance="source", source_prefix=(24, 64)))
    assert len({ask_from(mesh, number) for number in range(1, 60)}) == 1


def test_locality(mesh: Mesh, server: MakeServer) -> None:
    here, there = server(named(b"here")), server(named(b"there"))
    remote = replace(there.backend, local=False)
    mesh.serve(here.backend, remote, policy=Policy(locality="prefer"))
    assert {ask(mesh) for _ in range(10)} == {b"here"}
    here.close()
    assert {ask(mesh) for _ in range(10)} == {b"there"}
    mesh.serve(remote, policy=Policy(locality="strict"))
    assert turned_away(mesh)


# Health


@pytest.mark.parametrize("balance", BALANCERS)
def test_a_failing_backend_is_set_aside_and_comes_back(mesh: Mesh, server: MakeServer, balance: str) -> None:
    good, port = server(named(b"good")), free_port()
    mesh.serve(backend(port), good.backend, policy=Policy(balance=balance))
    for number in range(40):
        assert ask_from(mesh, number) == b"good"
    standing = {of.port: of for of in mesh.backend_counts()}
    failing = mesh.backend_counts()[standing[port]]
    assert failing.aside
    assert failing.failed < 15, "three failures, and then a probe now and then"
    with answering(port, b"back"):
        numbers = itertools.cycle(range(200))
        eventually(lambda: ask_from(mesh, next(numbers)) == b"back", timeout=30, what="a probe to find it")
        shares = Counter(ask_from(mesh, number) for number in range(40))
        assert set(shares) == {b"good", b"back"}
        assert balance != "roundrobin" or shares[b"good"] == 20


@contextlib.contextmanager
def answering(port: int, name: bytes) -> Iterator[None]:
    """A server that begins to listen now, on a port that was free."""
    with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
        thread = threading.Thread(target=answer, args=(listener, name))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def answer(listener: socket.socket, name: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(30)
                connection.recv(64)
                connection.sendall(name)


def test_when_all_fail_all_are_tried(mesh: Mesh) -> None:
    mesh.serve(backend(free_port()), backend(free_port()))
    for _ in range(10):
        assert turned_away(mesh)
    assert counts(mesh).refused.no_backend == 10
    assert all(of.failed == 10 for of in mesh.backend_counts().values())


def test_retries_are_bounded(mesh: Mesh) -> None:
    mesh.serve(*(backend(free_port()) for _ in range(5)), policy=Policy(retries=2))
    assert turned_away(mesh)
    assert counts(mesh).failovers == 2


@pytest.mark.alone
@pytest.mark.slow
def test_slow_start_begins_with_little(mesh: Mesh, server: MakeServer) -> None:
    old, new = server(named(b"old")), server(named(b"new"))
    mesh.serve(old.backend)
    time.sleep(1.1)
    policy = Policy(slow_start=1)
    mesh.serve(old.backend, new.backend, policy=policy)
    assert Counter(ask(mesh) for _ in range(40))[b"new"] <= 15, "it is young"
    time.sleep(1.1)
    assert Counter(ask(mesh) for _ in range(40)) == {b"old": 20, b"new": 20}


# Waiting


def test_hold_waits_for_a_backend(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(policy=Policy(hold=30))
    with mesh.connect() as client:
        client.sendall(b"who")
        eventually(lambda: counts(mesh).waited == 1, timeout=30, what="the client to wait")
        mesh.serve(server(named(b"late")).backend, policy=Policy(hold=30))
        assert client.recv(64) == b"late"


def test_hold_waits_for_one_that_does_not_listen_yet(mesh: Mesh) -> None:
    port = free_port()
    mesh.serve(backend(port), policy=Policy(hold=30))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(mesh.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(b"who")
        eventually(lambda: counts(mesh).waited == 20, timeout=30, what="the clients to wait")
        with answering(port, b"at last"):
            assert {client.recv(64) for client in clients} == {b"at last"}


def test_hold_ends(mesh: Mesh) -> None:
    mesh.serve(policy=Policy(hold=0.2))
    assert turned_away(mesh)
    assert counts(mesh).refused.no_backend == 1
    assert counts(mesh).waited == 1


def test_a_port_takes_no_more_than_its_limit(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend, policy=Policy(max_conn=2, queue=1, queue_timeout=30))
    with served(mesh) as first, served(mesh), mesh.connect() as waiting:
        waiting.sendall(b"x")
        eventually(lambda: counts(mesh).waited == 1, timeout=30, what="the third to wait")
        assert turned_away(mesh)
        assert counts(mesh).refused.full == 1
        first.close()
        assert waiting.recv(1) == b"x", "a place is free again"


def served(mesh: Mesh) -> socket.socket:
    client = mesh.connect()
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    return client


def test_a_backend_takes_no_more_than_its_limit(mesh: Mesh, server: MakeServer) -> None:
    policy = Policy(max_conn_backend=2, queue=8, queue_timeout=30)
    mesh.serve(server(echo).backend, server(echo).backend, policy=policy)
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(served(mesh)) for _ in range(4)]
        assert [of.active for of in mesh.backend_counts().values()] == [2, 2]
        late = [stack.enter_context(mesh.connect()) for _ in range(4)]
        for client in late:
            client.sendall(b"y")
        eventually(lambda: counts(mesh).waited == 4, timeout=30, what="the others to wait")
        for client in open_ones:
            client.close()
        assert [client.recv(1) for client in late] == [b"y"] * 4


def test_nobody_waits_in_the_queue_for_ever(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend, policy=Policy(max_conn=1, queue_timeout=0.2))
    with served(mesh), mesh.connect() as client:
        assert was_reset(client)
    assert counts(mesh).refused.full == 1


# Endings


def test_a_dead_backends_connections_are_reset(mesh: Mesh, server: MakeServer) -> None:
    dead, alive = server(echo), server(echo)
    mesh.serve(dead.backend)
    client = served(mesh)
    table = Table((mesh.entry(alive.backend),), absent=BackendState.DOWN)
    mesh.plane.apply(table)
    assert was_reset(client)
    client.close()
    served(mesh).close()


def test_a_removed_backends_connections_go_on(mesh: Mesh, server: MakeServer) -> None:
    removed = server(echo)
    mesh.serve(removed.backend)
    client = served(mesh)
    mesh.serve(server(echo).backend)
    client.sendall(b"y")
    assert client.recv(1) == b"y"
    client.close()


def test_connections_of_a_living_task_outlive_its_port(mesh: Mesh, server: MakeServer) -> None:
    """Its service publishes another target now: Swarm replaces the task, but not yet."""
    task = server(echo).backend
    mesh.serve(task)
    client = served(mesh)
    moved = replace(task, port=free_port())
    mesh.plane.apply(Table((mesh.entry(moved),), absent=BackendState.DOWN, living=frozenset({task.task})))
    client.sendall(b"y")
    assert client.recv(1) == b"y"
    client.close()


def test_a_draining_backends_connections_end_in_time(mesh: Mesh, server: MakeServer) -> None:
    leaving, staying = server(echo), server(echo)
    policy = Policy(drain=0.3)
    mesh.serve(leaving.backend, policy=policy)
    client = served(mesh)
    mesh.serve(
        backend(leaving.port, state=BackendState.DRAINING), staying.backend, policy=replace(policy, drain=0)
    )
    client.sendall(b"y")
    assert client.recv(1) == b"y"
    mesh.serve(backend(leaving.port, state=BackendState.DRAINING), staying.backend, policy=policy)
    assert was_reset(client)
    client.close()


def test_a_suspected_backend_keeps_its_connections_until_it_is_called_dead(
    mesh: Mesh, server: MakeServer
) -> None:
    silent, staying = server(echo), server(named(b"staying"))
    policy = Policy(drain=0.2)
    mesh.serve(silent.backend, policy=policy)
    client = served(mesh)
    mesh.serve(backend(silent.port, state=BackendState.SUSPECTED), staying.backend, policy=policy)
    assert {ask(mesh) for _ in range(4)} == {b"staying"}
    time.sleep(0.5)  # more than draining would leave it
    client.sendall(b"y")
    assert client.recv(1) == b"y"
    table = Table((mesh.entry(staying.backend, policy=policy),), absent=BackendState.DOWN)
    mesh.plane.apply(table)
    assert was_reset(client)
    client.close()


def test_a_silent_connection_is_ended(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend, policy=Policy(idle_timeout=2))
    client = served(mesh)
    for _ in range(4):
        time.sleep(0.7)
        client.sendall(b"x")
        assert client.recv(1) == b"x", "it was not silent"
    client.settimeout(30)
    assert client.recv(1) == b""
    client.close()


@pytest.mark.parametrize("before", [0, 3600])
def test_an_end_of_silence_that_is_set_later_counts_for_connections_that_are_open(
    mesh: Mesh, server: MakeServer, before: float
) -> None:
    one = server(echo).backend
    mesh.serve(one, policy=Policy(idle_timeout=before))
    with served(mesh) as client:
        mesh.serve(one, policy=Policy(idle_timeout=0.5))
        mesh.serve(one, policy=Policy(idle_timeout=0.5))  # a worker may see this table alone
        client.settimeout(30)
        assert client.recv(1) == b""


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("MESHLB_LONG") != "1", reason="more than a minute: MESHLB_LONG=1 runs it")
def test_it_counts_for_old_ones_too_which_no_timer_watches(mesh: Mesh, server: MakeServer) -> None:
    one = server(echo).backend
    mesh.serve(one)
    with served(mesh) as client:
        time.sleep(65)
        mesh.serve(one, policy=Policy(idle_timeout=0.5))
        client.settimeout(30)
        assert client.recv(1) == b""


def test_an_answer_that_nobody_reads_for_too_long_does_not_look_complete(
    mesh: Mesh, server: MakeServer
) -> None:
    size = 64 * MIB

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            connection.sendall(bytes(size))

    mesh.serve(server(answer).backend, policy=Policy(idle_timeout=0.5))
    with mesh.connect() as client:
        eventually(lambda: counts(mesh).closed == 1, timeout=30, what="its time to be up")
        with pytest.raises(ConnectionResetError):
            exactly(client, size)


@pytest.mark.parametrize("speaker", ["client", "server"])
def test_a_connection_that_speaks_one_way_alone_is_not_silent(
    mesh: Mesh, server: MakeServer, speaker: str
) -> None:
    """A download, or an upload, that takes longer than `idle-timeout`."""
    of_client, of_server = (dictate, swallow) if speaker == "client" else (swallow, dictate)
    mesh.serve(server(of_server).backend, policy=Policy(idle_timeout=3))
    with mesh.connect() as client:
        of_client(client)
    eventually(lambda: mesh.counters().open == 0, timeout=30, what="it to end")
    assert counts(mesh).received + counts(mesh).sent == SAID, "nothing of it was cut off"


def dictate(connection: socket.socket) -> None:
    """Says a byte four times a second."""
    for _ in range(SAID):
        connection.sendall(b"x")
        time.sleep(0.25)


def swallow(connection: socket.socket) -> None:
    while connection.recv(64):
        pass


# Who may come in


def test_allow_and_deny(mesh: Mesh, server: MakeServer) -> None:
    one = server(echo).backend
    mesh.serve(one, policy=Policy(deny=("127.0.0.0/8",)))
    assert turned_away(mesh)
    mesh.serve(one, policy=Policy(allow=("127.0.0.0/8", "::1/128"), deny=("::1/128",)))
    served(mesh).close()
    assert turned_away(mesh, "::1")
    mesh.serve(one, policy=Policy(allow=("10.0.0.0/8",)))
    assert turned_away(mesh)
    assert counts(mesh).refused.denied == 3


def test_the_rate_of_a_source(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend, policy=Policy(rate=1 / 3600, rate_burst=3))
    for _ in range(3):
        served(mesh).close()
    assert turned_away(mesh)
    assert counts(mesh).refused.rate == 1
    with socket.create_connection(
        ("127.0.0.1", mesh.port.published), 30, source_address=("127.0.0.9", 0)
    ) as other:
        other.sendall(b"x")
        assert other.recv(1) == b"x"


# PROXY headers


def test_backends_are_told_the_clients_address(mesh: Mesh, server: MakeServer) -> None:
    one = server(echo).backend
    mesh.serve(one, policy=Policy(proxy_protocol=1))
    with mesh.connect() as client:
        host, port = client.getsockname()[:2]
        line = f"PROXY TCP4 {host} 127.0.0.1 {port} {mesh.port.published}\r\n".encode()
        assert exactly(client, len(line)) == line, "even to a client that says nothing"
        client.sendall(b"hello")
        assert exactly(client, 5) == b"hello"
    mesh.serve(one, policy=Policy(proxy_protocol=2))
    with mesh.connect(address="::1") as client:
        client.sendall(b"hello")
        data = exactly(client, 52 + 5)
        assert data[:16] == b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24"
        assert data[48:52] == struct.pack("!HH", client.getsockname()[1], mesh.port.published)
        assert data[52:] == b"hello"
    eventually(lambda: mesh.counters().open == 0, timeout=30, what="both to end")
    assert counts(mesh).received == 10, "headers are not the client's bytes"


def test_the_header_is_not_lost_in_a_failover(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(backend(free_port()), server(echo).backend, policy=Policy(proxy_protocol=1))
    for _ in range(4):
        with mesh.connect() as client:
            client.sendall(b"hello\n")
            with client.makefile("rb") as lines:
                assert lines.readline().startswith(b"PROXY TCP4 127.0.0.1 ")
                assert lines.readline() == b"hello\n"


HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.7 9 80\r\n"
TRUSTING = Policy(accept_proxy=("127.0.0.0/8",), proxy_protocol=1)


@pytest.mark.parametrize("split", [0, 1, 12, len(HEADER) - 1, len(HEADER)])
def test_a_trusted_header_is_taken_and_passed_on(mesh: Mesh, server: MakeServer, split: int) -> None:
    mesh.serve(server(echo).backend, policy=TRUSTING)
    with mesh.connect() as client:
        client.sendall(HEADER[:split])
        if 0 < split < len(HEADER):
            eventually(lambda: counts(mesh).accepted == 1, timeout=30, what="the client to be accepted")
        client.sendall(HEADER[split:] + b"hello")
        expected = HEADER + b"hello"
        assert exactly(client, len(expected)) == expected


def test_many_bytes_behind_a_header(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend, policy=replace(TRUSTING, proxy_protocol=1))
    data = bytes(range(256)) * 512
    with mesh.connect() as client:
        client.sendall(b"PROXY UNKNOWN\r\n" + data)
        with client.makefile("rb") as answer:
            assert answer.readline().startswith(b"PROXY TCP4 127.0.0.1")
            assert answer.read(len(data)) == data


def test_a_header_that_names_nobody(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend, policy=TRUSTING)
    with mesh.connect() as client, client.makefile("rb") as lines:
        client.sendall(b"PROXY UNKNOWN\r\nhello")
        assert lines.readline().split()[2:4] == [b"127.0.0.1", b"127.0.0.1"]


@pytest.mark.parametrize(("bits", "network"), [(24, "2001:{}00::"), (56, "2001:db8:0:{}00::")])
def test_a_source_may_be_a_short_prefix_of_ipv6(
    mesh: Mesh, server: MakeServer, bits: int, network: str
) -> None:
    """Neighbours stay together, and different networks do not all meet."""
    backends = [server(named(name)).backend for name in (b"a", b"b", b"c", b"d")]
    policy = Policy(balance="source", source_prefix=(32, bits), accept_proxy=("127.0.0.0/8",))
    mesh.serve(*backends, policy=policy)
    networks = [ipaddress.ip_network((network.format(f"{number:02x}"), bits)) for number in range(16)]
    hosts = (1, 1 << 64, (1 << 70) + 1)
    chosen = [{ask(mesh, proxied(str(each[host])) + b"who") for host in hosts} for each in networks]
    assert all(len(of_network) == 1 for of_network in chosen)
    assert len(set.union(*chosen)) > 1


def proxied(source: str) -> bytes:
    return f"PROXY TCP6 {source} 2001:db8::7 9 80\r\n".encode()


def test_the_address_in_the_header_counts(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend, policy=replace(TRUSTING, deny=("192.0.2.0/24",)))
    with mesh.connect() as client:
        client.sendall(HEADER)
        assert was_reset(client)
    assert counts(mesh).refused.denied == 1


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP9", b""])
def test_who_must_send_a_header_and_does_not(mesh: Mesh, server: MakeServer, said: bytes) -> None:
    mesh.serve(server(echo).backend, policy=TRUSTING)
    with mesh.connect() as client:
        client.sendall(said)
        with contextlib.suppress(OSError):  # it may be reset already
            client.shutdown(socket.SHUT_WR)
        assert was_reset(client)
    assert counts(mesh).refused.header == 1


def test_who_may_not_send_a_header(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend, policy=Policy(accept_proxy=("10.0.0.0/8",)))
    for start in (HEADER, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"):
        with mesh.connect() as client:
            client.sendall(start[:4])
            client.sendall(start[4:])
            assert was_reset(client)
    assert counts(mesh).refused.header == 2
    with mesh.connect() as client:
        client.sendall(b"PRO")
        assert exactly(client, 3) == b"PRO", "it has become none in its time"
        client.sendall(b"XY hello")
        assert exactly(client, 8) == b"XY hello"


def test_a_server_that_speaks_first_is_not_kept_waiting(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(greet).backend, policy=Policy(accept_proxy=("10.0.0.0/8",)))
    with mesh.connect() as client:
        assert exactly(client, 5) == b"hello"


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")
    connection.recv(1)


# Statistics


def test_times_are_counted(mesh: Mesh, server: MakeServer) -> None:
    mesh.serve(server(echo).backend)
    for _ in range(5):
        served(mesh).close()
    eventually(lambda: mesh.counters().open == 0, timeout=30, what="the connections to end")
    port = counts(mesh)
    (of_backend,) = mesh.backend_counts().values()
    for histogram in (port.connect, port.first_byte, port.duration, of_backend.connect, of_backend.duration):
        assert sum(histogram.buckets) == 5
    assert of_backend.sampled >= 1
    assert of_backend.connected == 5
    assert of_backend.active == 0
