"""Sockets of the agent before: told apart, taken by ports, closed where nobody wants them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator

import pytest

from meshlb.errors import PortError
from meshlb.model import Port, PortState, Protocol
from meshlb.ports.inherited import Inherited, by_address, name_of, place
from meshlb.ports.listen import Listeners, listening_sockets
from meshlb.ports.takeover import Takeover

pytestmark = pytest.mark.usefixtures("given_back")


class Store:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, int]] = []

    def keep(self, name: str, sockets: Iterable[socket.socket]) -> None:
        self.said.append(("keep", name, len(list(sockets))))

    def drop(self, names: Iterable[str]) -> None:
        self.said += [("drop", name, 0) for name in names]

    def drop_all(self) -> None:
        self.said.append(("drop all", "", 0))


@pytest.fixture
def left() -> Iterator[Inherited]:
    inherited = Inherited()
    yield inherited
    inherited.clear()


def adopting(left: Inherited, mode: str = "never", store: Store | None = None) -> Listeners:
    return Listeners(Takeover(mode), holder=lambda *_: None, inherited=left, store=store)


def numbers(sockets: Iterable[socket.socket]) -> set[int]:
    return {each.getsockname()[1] for each in sockets}


def closed(sockets: Iterable[socket.socket]) -> bool:
    return all(each.fileno() == -1 for each in sockets)


def socket_inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize(
    ("address", "told"), [("", ""), ("127.0.0.1", "127.0.0.1"), ("::", "::"), ("::1", "::1")]
)
def test_a_socket_tells_its_place(protocol: Protocol, address: str, told: str) -> None:
    with contextlib.closing(listening_sockets(0, 1, protocol, (address,))[0]) as sock:
        assert place(sock) == (protocol, told, sock.getsockname()[1])


def test_what_is_no_listening_socket_is_closed() -> None:
    strangers = [socket.socket(), *socket.socketpair(), *listening_sockets(0, 1, Protocol.UDP)]
    good = listening_sockets(0, 2)
    other = listening_sockets(0, 1)
    number, found = by_address([*strangers, *good, *other], Protocol.TCP)
    assert found == {"": list(good)}
    assert numbers(good) == {number}
    assert closed(strangers)
    assert closed(other)
    for each in good:
        each.close()


@pytest.mark.parametrize(("before", "now", "sockets"), [(2, 2, 2), (3, 2, 3), (2, 5, 5), (1, 2, 2)])
def test_workers_may_be_more_or_fewer(left: Inherited, before: int, now: int, sockets: int) -> None:
    made = listening_sockets(0, before)
    port = Port(made[0].getsockname()[1], 80)
    left.add([(name_of(port), made)])
    store = Store()
    opening = adopting(left, store=store).open(port, now)
    assert opening.state is PortState.SERVING
    assert len(opening.sockets) == sockets
    assert numbers(opening.sockets) == {port.published}
    assert {socket_inode(each) for each in opening.sockets} == {socket_inode(each) for each in made}
    assert all(not each.getblocking() for each in opening.sockets)
    assert store.said == [("keep", name_of(port), before)]
    for each in opening.sockets:
        each.close()


def test_a_socket_of_udp_has_one_worker(left: Inherited) -> None:
    made = listening_sockets(0, 1, Protocol.UDP)
    port = Port(made[0].getsockname()[1], 53, Protocol.UDP)
    left.add([(name_of(port), made)])
    (only,) = adopting(left).open(port, 3).sockets
    assert socket_inode(only) == socket_inode(made[0])
    only.close()


def test_addresses_that_have_none_get_new_ones_and_others_are_closed(left: Inherited) -> None:
    made = listening_sockets(0, 1, addresses=("127.0.0.1", "127.0.0.2"))
    port = Port(made[0].getsockname()[1], 80)
    left.add([(name_of(port), made)])
    opening = adopting(left).open(port, 2, ("127.0.0.2", "127.0.0.3"))
    assert closed(made[:1])
    assert sorted(each.getsockname()[0] for each in opening.sockets) == ["127.0.0.2"] * 2 + ["127.0.0.3"] * 2
    for each in opening.sockets:
        each.close()


def test_what_a_port_does_not_want_leaves_the_store_too(left: Inherited) -> None:
    """It would go on listening there, and nobody would accept."""
    made = listening_sockets(0, 1, addresses=("127.0.0.1", "127.0.0.2"))
    port, store = Port(made[0].getsockname()[1], 80), Store()
    left.add([(name_of(port), made)])
    opening = adopting(left, store=store).open(port, 1, ("127.0.0.2",))
    assert store.said == [("drop", name_of(port), 0), ("keep", name_of(port), 1)]
    opening.sockets[0].close()


def test_a_port_that_cannot_be_served_leaves_the_store(
    left: Inherited, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = listening_sockets(0, 1, addresses=("127.0.0.1",))
    port, store = Port(made[0].getsockname()[1], 80), Store()
    left.add([(name_of(port), made)])
    listeners = adopting(left, store=store)
    monkeypatch.setattr("meshlb.ports.listen.listening_sockets", refuse)
    with pytest.raises(PortError):
        listeners.open(port, 1, ("127.0.0.1", "127.0.0.2"))
    assert closed(made)
    assert store.said == [("drop", name_of(port), 0)]


def refuse(*_: object) -> None:
    raise OSError(errno.EADDRINUSE, "in use")


def test_what_waits_in_a_socket_is_there_for_who_adopts_it(left: Inherited) -> None:
    made = listening_sockets(0, 1)
    port = Port(made[0].getsockname()[1], 80)
    with socket.create_connection(("127.0.0.1", port.published), 10) as client:
        left.add([(name_of(port), made)])
        listeners = adopting(left)
        (adopted,) = listeners.open(port, 1).sockets
        client.sendall(b"x")
        adopted.setblocking(True)
        accepted, _ = adopted.accept()
        with accepted:
            assert accepted.recv(1) == b"x"
        adopted.close()
        assert [name for name, _ in listeners.kept()] == [name_of(port)]


def test_a_port_is_dropped_from_the_store_when_it_is_closed_and_not_when_another_agent_has_it() -> None:
    made = listening_sockets(0, 1)
    port = Port(made[0].getsockname()[1], 80)
    for each in made:
        each.close()
    store = Store()
    for leave, said in ((False, ["keep", "drop"]), (True, ["keep"])):
        store.said.clear()
        listeners = adopting(Inherited(), store=store)
        for each in listeners.open(port, 1).sockets:
            each.close()
        if leave:
            listeners.leave()
        else:
            listeners.close_all()
        assert [verb for verb, _, _ in store.said] == said
        assert listeners.kept() == ()


def test_a_number_of_its_own_is_not_adopted_where_nothing_may_be_redirected(left: Inherited) -> None:
    made = listening_sockets(0, 1)
    (free,) = numbers(other := listening_sockets(0, 1))
    other[0].close()
    left.add([("tcp." + str(free), made)])
    store = Store()
    (fresh,) = adopting(left, store=store).open(Port(free, 80), 1).sockets
    assert fresh.getsockname()[1] == free
    assert closed(made)
    assert store.said[0] == ("drop", f"tcp.{free}", 0)
    fresh.close()
