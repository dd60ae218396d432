"""UDP through a real plane: flows, batches, failover, limits."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from datagrams import Answer, UdpServer, ask, client, send_train
from mesh import Mesh, free_port
from waiting import eventually

from meshlb.model import BackendState, Port, PortCounts, PortState, Protocol
from meshlb.policy import Policy
from meshlb.ports import listen
from meshlb.table import Backend, Table

MakeServer = Callable[..., UdpServer]


class UdpMesh:
    """One published UDP port."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.port = Port(free_port(), 53, Protocol.UDP)

    def serve(
        self, *backends: Backend, policy: Policy | None = None, absent: BackendState = BackendState.DRAINING
    ) -> None:
        entry = self.mesh.entry(*backends, port=self.port, policy=policy)
        (status,) = self.mesh.plane.apply(Table((entry,), absent=absent))
        assert status.state is PortState.SERVING, status.reason

    def client(self, address: str = "127.0.0.1", timeout: float = 10) -> socket.socket:
        return client(self.port.published, address, timeout)

    @property
    def counts(self) -> PortCounts:
        return self.mesh.port_counts(self.port)

    @property
    def open(self) -> int:
        return self.counts.accepted - self.counts.closed


@pytest.fixture
def udp(mesh: Mesh) -> UdpMesh:
    return UdpMesh(mesh)


@pytest.fixture
def udp_server() -> Iterator[MakeServer]:
    with contextlib.ExitStack() as stack:

        def make(
            answer: Answer = lambda data: (data,), address: str = "127.0.0.1", port: int = 0
        ) -> UdpServer:
            server = UdpServer(answer, address, port)
            stack.callback(server.close)
            return server

        yield make


def listening(mesh: Mesh, port: int) -> bool:
    """Whether workers still hear the port, which they know by this number."""
    with contextlib.suppress(KeyError):  # nobody refers to it any more
        return mesh.plane._forwarder.listening(port)
    return False


def draining(server: UdpServer) -> Backend:
    return dataclasses.replace(server.backend, state=BackendState.DRAINING)


def test_a_question_is_not_repeated_to_the_only_backend_once_that_has_drained(
    udp: UdpMesh, udp_server: MakeServer
) -> None:
    silent = udp_server(lambda _: ())
    policy = Policy(drain=0.2)
    udp.serve(silent.backend, policy=policy)
    with udp.client() as client:
        client.send(b"?")
        eventually(lambda: silent.received, timeout=10, what="the question")
        udp.serve(draining(silent), policy=policy)
        time.sleep(1)
    assert len(silent.received) <= 2


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
@pytest.mark.parametrize("behind", ["127.0.0.1", "::1"])
def test_datagrams_of_every_size_come_back_from_the_address_that_was_asked(
    udp: UdpMesh, udp_server: MakeServer, address: str, behind: str
) -> None:
    udp.serve(udp_server(address=behind).backend)
    with udp.client(address) as sock:
        for size in (0, 1, 512, 1400, 1473, 9000, 65000):
            data = os.urandom(size)
            assert ask(sock, data) == data


def test_without_ipv6_in_the_kernel_the_address_that_was_asked_answers(
    udp: UdpMesh, udp_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        listen, "_socket", lambda _: (socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "0.0.0.0")
    )
    udp.serve(udp_server().backend)
    for address in ("127.0.0.1", "127.0.0.3"):
        with udp.client(address) as sock:
            assert ask(sock, b"?") == b"?"
            send_train(sock, [b"12", b"34", b"5"])
            assert [sock.recv(100) for _ in range(3)] == [b"12", b"34", b"5"]


@pytest.mark.parametrize("size", [1, 64, 1200])
@pytest.mark.parametrize("count", [2, 5, 40])
def test_a_train_stays_as_many_datagrams_both_ways(
    udp: UdpMesh, udp_server: MakeServer, size: int, count: int
) -> None:
    server = udp_server()
    udp.serve(server.backend)
    train = [bytes([65 + number]) * size for number in range(count)] + [b"z" * (size // 2)] * (size > 1)
    with udp.client() as sock:
        for _ in range(3):
            send_train(sock, train)
            assert [sock.recv(65536) for _ in train] == train
    assert [data for data, _ in server.received] == train * 3


def test_a_train_of_answers_stays_as_many_datagrams(udp: UdpMesh, udp_server: MakeServer) -> None:
    answers = [b"%03d" % number * 100 for number in range(60)]
    udp.serve(udp_server(lambda _: answers).backend)
    with udp.client() as sock:
        for _ in range(5):  # also once the kernel joins what the server sends
            sock.send(b"all")
            assert [sock.recv(65536) for _ in answers] == answers


def test_mixed_lengths_keep_their_order(udp: UdpMesh, udp_server: MakeServer) -> None:
    udp.serve(udp_server().backend)
    sizes = [5, 5, 5, 3, 0, 7, 7, 0, 0, 9, 9, 9, 9, 2, 2, 1400, 1400, 10]
    data = [bytes([number]) * size for number, size in enumerate(sizes)]
    with udp.client() as sock:
        for each in data:
            sock.send(each)
        assert [sock.recv(65536) for _ in data] == data


def test_a_train_of_shorter_datagrams_is_not_glued_to_what_precedes_it(
    udp: UdpMesh, udp_server: MakeServer
) -> None:
    """Workers find a datagram and the train behind it at once now and then."""
    server = udp_server(lambda _: ())
    udp.serve(server.backend)
    sent = [b"a" * 1200, *[b"b" * 100] * 3]
    with udp.client() as sock:
        for _ in range(30):
            server.received.clear()
            for _ in range(10):  # as many as there is room for
                sock.send(sent[0])
                send_train(sock, sent[1:])
            eventually(
                lambda: sum(len(data) for data, _ in server.received) == 15000, timeout=10, what="all bytes"
            )
            assert [data for data, _ in server.received] == sent * 10


def test_each_client_has_a_flow_and_each_flow_one_backend(udp: UdpMesh, udp_server: MakeServer) -> None:
    names = [b"a", b"b", b"c"]
    udp.serve(*(udp_server(lambda data, name=name: (name + data,)).backend for name in names))
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(udp.client()) for _ in range(30)]
        first = [ask(sock, b"%d" % number) for number, sock in enumerate(socks)]
        assert [answer[1:] for answer in first] == [b"%d" % number for number in range(30)]
        assert sorted(answer[:1] for answer in first) == sorted(names * 10)
        again = [ask(sock, b"%d" % number) for number, sock in enumerate(socks)]
        assert again == first
    assert udp.counts.accepted == 30


def test_a_question_that_nobody_listens_to_is_put_to_another(udp: UdpMesh, udp_server: MakeServer) -> None:
    dead, alive = udp_server(), udp_server()
    dead.close()
    udp.serve(dead.backend, alive.backend)
    for _ in range(4):
        with udp.client() as sock:
            assert ask(sock, b"once") == b"once"  # one datagram of the client's
    assert udp.counts.failovers >= 1
    assert udp.counts.refused.no_backend == 0


def test_a_conversation_goes_on_with_another_when_its_backend_dies(
    udp: UdpMesh, udp_server: MakeServer
) -> None:
    one, other = udp_server(), udp_server()
    udp.serve(one.backend, other.backend)
    with udp.client() as sock:
        assert ask(sock, b"1") == b"1"
        (one if one.received else other).close()
        assert [ask(sock, b"%d" % number) for number in range(5)] == [b"%d" % number for number in range(5)]


@pytest.mark.skipif(os.geteuid() != 0, reason="speaks ICMP: needs root")
def test_a_router_that_asks_for_shorter_packets_ends_no_conversation(
    udp: UdpMesh, udp_server: MakeServer
) -> None:
    servers = [udp_server(address="127.0.7.7") for _ in range(2)]
    udp.serve(*(server.backend for server in servers))
    with udp.client() as sock:
        assert ask(sock, b"1") == b"1"
        (server,) = (one for one in servers if one.received)
        too_long(server.received[0][1], server)
        assert ask(sock, b"2") == b"2"
        assert [data for data, _ in server.received] == [b"1", b"2"]
        assert len({port for _, port in server.received}) == 1
    assert udp.mesh.backend_counts(udp.port)[server.backend].failed == 0


def too_long(port: int, server: UdpServer) -> None:
    """What a router says of a packet from this local port: fragmentation needed, to 65,000 bytes."""
    ends = socket.inet_aton("127.0.0.1") + socket.inet_aton(server.address)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0x4000, 64, socket.IPPROTO_UDP, 0) + ends
    quoted = header + struct.pack("!HHHH", port, server.port, 8, 0)
    packet = struct.pack("!BBHHH", 3, 4, 0, 0, 65000) + quoted
    words = struct.unpack(f"!{len(packet) // 2}H", packet)
    checksum = sum(words) % 0xFFFF ^ 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as router:
        router.sendto(packet[:2] + struct.pack("!H", checksum) + packet[4:], ("127.0.0.1", 0))


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_backend_that_never_answers_comes_back_when_it_listens_again(
    udp: UdpMesh, udp_server: MakeServer, goes_on: bool
) -> None:
    """As a sink of logs or counters does: what it says to a datagram is nothing, unless it is gone."""
    gone, there = udp_server(lambda _: ()), udp_server(lambda _: ())
    gone.close()
    udp.serve(gone.backend, there.backend, policy=Policy(flow_timeout=120 if goes_on else 1))
    with contextlib.ExitStack() as stack:
        clients: list[socket.socket] = []

        def is_aside() -> bool:
            clients.append(stack.enter_context(udp.client()))
            for each in clients if goes_on else clients[-1:]:
                each.send(b"line")
            return udp.mesh.backend_counts(udp.port)[gone.backend].aside

        eventually(is_aside, timeout=30, what="it to be set aside", every=0.05)
        back = udp_server(lambda _: (), port=gone.port)
        eventually(lambda: not is_aside(), timeout=60, what="it to be back", every=0.3)
        eventually(lambda: _still(back) and _still(there), timeout=10, what="all to arrive")
        back.received.clear()
        there.received.clear()
        for _ in range(20):
            stack.enter_context(udp.client()).send(b"after")
        eventually(lambda: len(back.received + there.received) == 20, timeout=10, what="20 datagrams")
        assert len(back.received) == 10


def _still(server: UdpServer) -> bool:
    """Whether nothing comes for a moment."""
    count = len(server.received)
    time.sleep(0.2)
    return count == len(server.received)


@pytest.mark.parametrize("absent", [BackendState.DOWN, BackendState.DRAINING])
def test_flows_leave_a_backend_that_the_table_has_no_more(
    udp: UdpMesh, udp_server: MakeServer, absent: BackendState
) -> None:
    one, other = udp_server(lambda _: (b"one",)), udp_server(lambda _: (b"other",))
    udp.serve(one.backend)
    with udp.client() as sock:
        assert ask(sock, b"?") == b"one"
        udp.serve(other.backend, absent=absent)

        def answer_of_the_other() -> bool:  # the workers look at the table in their own time
            return ask(sock, b"?") == b"other"

        eventually(answer_of_the_other, timeout=10, what="the other's answer")
        assert udp.counts.closed == 0


def test_a_draining_backend_keeps_its_flows_and_gets_no_new_ones(
    udp: UdpMesh, udp_server: MakeServer
) -> None:
    one, other = udp_server(lambda _: (b"one",)), udp_server(lambda _: (b"other",))
    udp.serve(one.backend)
    with udp.client() as sock:
        assert ask(sock, b"?") == b"one"
        udp.serve(draining(one), other.backend)

        def of_new_flows() -> set[bytes]:
            with contextlib.ExitStack() as stack:
                return {ask(stack.enter_context(udp.client()), b"?") for _ in range(10)}

        # The workers look at the table in their own time.
        eventually(lambda: of_new_flows() == {b"other"}, timeout=10, what="the other's answers alone")
        assert ask(sock, b"?") == b"one"


def test_a_drain_that_has_a_time_ends(udp: UdpMesh, udp_server: MakeServer) -> None:
    one, other = udp_server(lambda _: (b"one",)), udp_server(lambda _: (b"other",))
    udp.serve(one.backend)
    with udp.client() as sock:
        assert ask(sock, b"?") == b"one"
        udp.serve(draining(one), other.backend, policy=Policy(drain=0.2))
        eventually(lambda: ask(sock, b"?") == b"other", timeout=10, what="the other's answer")


def test_a_question_in_a_leaving_backends_hands_is_put_to_another(
    udp: UdpMesh, udp_server: MakeServer
) -> None:
    silent, other = udp_server(lambda _: ()), udp_server()
    udp.serve(silent.backend)
    with udp.client() as sock:
        sock.send(b"?")
        eventually(lambda: bool(silent.received), timeout=10, what="the question to arrive")
        udp.serve(other.backend)
        assert sock.recv(100) == b"?"


def test_a_silent_flow_ends(udp: UdpMesh, udp_server: MakeServer) -> None:
    udp.serve(udp_server().backend, policy=Policy(flow_timeout=1))
    with udp.client() as sock:
        assert ask(sock, b"1") == b"1"
        assert udp.counts.accepted == 1
        eventually(lambda: udp.open == 0, timeout=10, what="the flow to end")
        assert ask(sock, b"2") == b"2"
    assert udp.counts.accepted == 2


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Policy(flows_per_source=3), "rate"),
        (Policy(rate=1 / 60, rate_burst=3), "rate"),
        (Policy(max_conn=3), "full"),
    ],
)
def test_limits_hold_for_new_flows_alone(
    udp: UdpMesh, udp_server: MakeServer, policy: Policy, reason: str
) -> None:
    udp.serve(udp_server().backend, policy=policy)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(udp.client()) for _ in range(3)]
        assert [ask(sock, b"in") for sock in socks] == [b"in"] * 3
        with udp.client(timeout=0.2) as late, pytest.raises(TimeoutError):
            ask(late, b"out")
        assert [ask(sock, b"still in") for sock in socks] == [b"still in"] * 3
    eventually(lambda: udp.counts.dropped == 1, timeout=10, what="it to be counted")
    assert getattr(udp.counts.refused, reason) == 1


def test_a_source_may_have_new_flows_when_old_ones_have_ended(udp: UdpMesh, udp_server: MakeServer) -> None:
    udp.serve(udp_server().backend, policy=Policy(flows_per_source=1, flow_timeout=1))
    with udp.client() as sock:
        assert ask(sock, b"1") == b"1"
    eventually(lambda: udp.open == 0, timeout=10, what="the flow to end")
    with udp.client() as sock:
        assert ask(sock, b"2") == b"2"


def test_who_is_denied_is_not_heard(udp: UdpMesh, udp_server: MakeServer) -> None:
    server = udp_server()
    udp.serve(server.backend, policy=Policy(deny=("127.0.0.0/8",)))
    with udp.client(timeout=0.2) as sock, pytest.raises(TimeoutError):
        ask(sock, b"?")
    eventually(lambda: udp.counts.refused.denied == 1, timeout=10, what="it to be counted")
    assert server.received == []
    with udp.client("::1") as sock:
        assert ask(sock, b"?") == b"?"


def test_a_client_that_finds_nobody_is_counted(udp: UdpMesh) -> None:
    udp.serve()
    with udp.client(timeout=0.2) as sock, pytest.raises(TimeoutError):
        ask(sock, b"?")
    eventually(lambda: udp.counts.refused.no_backend == 1, timeout=10, what="it to be counted")
    eventually(lambda: udp.open == 0, timeout=10, what="the flow to end")
    assert udp.counts.dropped == 1


def test_every_backend_refuses(udp: UdpMesh, udp_server: MakeServer) -> None:
    servers = [udp_server() for _ in range(3)]
    for server in servers:
        server.close()
    udp.serve(*(server.backend for server in servers))
    with udp.client(timeout=0.2) as sock:
        with pytest.raises(TimeoutError):
            ask(sock, b"?")
        eventually(lambda: udp.counts.refused.no_backend == 1, timeout=10, what="it to be counted")
        eventually(lambda: udp.open == 0, timeout=10, what="the flow to end")
        again = udp_server(port=servers[0].port)  # it listens again
        eventually(lambda: _answers(sock), timeout=10, what="an answer")
        assert again.received


def _answers(sock: socket.socket) -> bool:
    try:
        return bool(ask(sock, b"?"))
    except TimeoutError:
        return False


def test_bytes_are_counted(udp: UdpMesh, udp_server: MakeServer) -> None:
    server = udp_server(lambda data: (data, data))
    udp.serve(server.backend)
    with udp.client() as sock:
        ask(sock, b"12345")
        sock.recv(100)
    eventually(
        lambda: (udp.counts.received, udp.counts.sent) == (5, 10), timeout=10, what="5 bytes in and 10 out"
    )
    ((_, backend),) = udp.mesh.backend_counts(udp.port).items()
    assert (backend.received, backend.sent, backend.active, backend.connected) == (5, 10, 1, 1)


def test_a_port_that_is_published_no_more_is_closed(udp: UdpMesh, udp_server: MakeServer) -> None:
    udp.serve(udp_server().backend)
    with udp.client() as sock:
        ask(sock, b"1")
        (served,) = udp.mesh.plane._served.values()
        udp.mesh.plane.apply(Table())
        # The workers close it in their own time.
        eventually(lambda: not listening(udp.mesh, served.port_id), timeout=10, what="the port to be closed")
        with pytest.raises(ConnectionRefusedError):
            ask(sock, b"2")


def test_tcp_and_udp_share_a_number(udp: UdpMesh, udp_server: MakeServer) -> None:
    mesh = udp.mesh
    udp.port = dataclasses.replace(udp.port, published=mesh.port.published)
    udp_backend = udp_server().backend
    table = Table((mesh.entry(), mesh.entry(udp_backend, port=udp.port)))
    assert [status.state for status in mesh.plane.apply(table)] == [PortState.SERVING] * 2
    with udp.client() as sock:
        assert ask(sock, b"?") == b"?"


def test_another_process_keeps_its_port(udp: UdpMesh) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", udp.port.published))
        (status,) = udp.mesh.plane.apply(Table((udp.mesh.entry(port=udp.port),)))
        assert status.state is PortState.FAILED
        assert "held by meshlb itself" in status.reason  # the test's own process


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plane that may have 50 flows for each of its two workers."""
    monkeypatch.setattr("meshlb.plane.Descriptors.flows", 100)


def test_questions_go_on_being_answered_when_there_is_no_room(
    small: None, udp: UdpMesh, udp_server: MakeServer
) -> None:
    udp.serve(udp_server().backend)
    for number in range(500):
        with udp.client() as sock:
            assert ask(sock, b"%d" % number) == b"%d" % number
    assert udp.open <= 100
    assert udp.counts.refused.resources == 0


def test_a_flood_ends_no_conversation(small: None, udp: UdpMesh, udp_server: MakeServer) -> None:
    server = udp_server(lambda data: (data,) if data != b"flood" else ())
    udp.serve(server.backend)
    with udp.client() as talk:
        ask(talk, b"1")
        ask(talk, b"2")
        (port,) = {sender for _, sender in server.received}
        for _ in range(500):
            with udp.client() as sock:
                sock.send(b"flood")
        eventually(lambda: udp.counts.closed > 300, timeout=10, what="the flood to take all places")
        ask(talk, b"3")
        assert (b"3", port) in server.received  # still the same flow
