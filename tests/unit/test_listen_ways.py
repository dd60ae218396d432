"""Which way a published port is served: bound, redirected, or not at all."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest

from meshlb.errors import PortError
from meshlb.kernel.nft import PublishedPort, Redirects
from meshlb.model import Port, PortState, Protocol
from meshlb.ports.holder import Holder
from meshlb.ports.listen import Listeners, Opening, listening_sockets
from meshlb.ports.takeover import Takeover

pytestmark = pytest.mark.usefixtures("given_back")

DOCKERD = Holder(7, "dockerd")
NGINX = Holder(8, "nginx")
PROXY = Holder(9, "docker-proxy", ("docker-proxy", "-host-port", "80", "-container-ip", "172.18.0.2"))


class FakeTakeover(Takeover):
    """Remembers redirects instead of telling the kernel. `docker` is what Docker leads away."""

    def __init__(self, mode: str = "auto", *docker: int) -> None:
        super().__init__(mode)
        self.docker = {(number, Protocol.TCP) for number in docker}
        self.broken = ""
        self.readings = 0
        self.closed = False

    def docker_publishes(self) -> frozenset[PublishedPort]:
        self.readings += 1
        return frozenset(self.docker)

    def set(self, redirects: Redirects) -> None:
        self.problem = self.broken if redirects else ""
        self._in_force = {} if self.broken else dict(redirects)

    def close(self) -> None:
        self.closed = True
        self._in_force = {}


@pytest.fixture
def held() -> Iterator[Port]:
    """A port that someone listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield Port(sock.getsockname()[1], 8000)


@pytest.fixture
def free() -> Port:
    """A port that nobody has, below those that the kernel gives to clients."""
    for number in random.sample(range(10_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("", number)):
            return Port(number, 8000)
    raise AssertionError("no free port")


Open = Callable[[Listeners, Port], Opening]


@pytest.fixture
def opened() -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def run(listeners: Listeners, port: Port) -> Opening:
            opening = listeners.open(port, 2)
            for each in opening.sockets:
                stack.enter_context(each)
            return opening

        yield run


def listeners_of(takeover: Takeover, holder: Holder | None = None, *sandbox: str) -> Listeners:
    return Listeners(takeover, holder=lambda *_: holder, sandbox=lambda: frozenset(sandbox))


def own(opening: Opening) -> int:
    return int(opening.sockets[0].getsockname()[1])


def redirects(takeover: Takeover) -> dict[int, int]:
    return {published: number for (published, _), number in takeover.redirects.items()}


@pytest.mark.parametrize("holder", [DOCKERD, PROXY])
def test_what_docker_holds_is_redirected(held: Port, opened: Open, holder: Holder) -> None:
    takeover = FakeTakeover()
    opening = opened(listeners_of(takeover, holder, "172.18.0.2"), held)
    assert opening.state is PortState.REDIRECTED
    assert str(holder) in opening.reason
    assert own(opening) != held.published
    assert redirects(takeover) == {held.published: own(opening)}


def test_what_docker_leads_away_is_redirected_whoever_holds_it(held: Port, opened: Open) -> None:
    takeover = FakeTakeover("auto", held.published)
    assert opened(listeners_of(takeover, NGINX), held).state is PortState.REDIRECTED


def test_a_free_port_that_docker_leads_away_is_led_back(free: Port, opened: Open) -> None:
    takeover = FakeTakeover("auto", free.published)
    opening = opened(listeners_of(takeover), free)
    assert opening.state is PortState.REDIRECTED
    assert redirects(takeover) == {free.published: free.published}
    assert own(opening) == free.published


def test_always_redirects_free_ports_too(free: Port, opened: Open) -> None:
    takeover = FakeTakeover("always")
    opening = opened(listeners_of(takeover), free)
    assert opening.state is PortState.REDIRECTED
    assert redirects(takeover) == {free.published: own(opening)}


@pytest.mark.parametrize(
    ("mode", "holder", "says"),
    [
        ("auto", NGINX, "held by nginx (process 8): stop it"),
        ("never", NGINX, "held by nginx (process 8): stop it"),
        ("auto", None, "a process that cannot be seen from here"),
        ("auto", Holder(7, "python3", ours=True), "by meshlb itself"),
        ("never", DOCKERD, "--takeover auto"),
        ("auto", PROXY, "for the container at 172.18.0.2"),
    ],
)
def test_what_others_hold_is_not_taken(held: Port, mode: str, holder: Holder | None, says: str) -> None:
    takeover = FakeTakeover(mode)
    listeners = listeners_of(takeover, holder, "172.18.0.9")
    with pytest.raises(PortError) as caught:
        listeners.open(held, 2)
    assert says in str(caught.value)
    assert redirects(takeover) == {}
    assert listeners.recheck() == {}


def test_a_proxys_container_is_swarms_where_the_sandbox_cannot_be_seen(held: Port, opened: Open) -> None:
    assert opened(listeners_of(FakeTakeover(), PROXY), held).state is PortState.REDIRECTED


def test_never_refuses_a_free_port_that_docker_leads_away(free: Port) -> None:
    takeover = FakeTakeover("never", free.published)
    with pytest.raises(PortError, match="--takeover auto"):
        listeners_of(takeover).open(free, 2)
    with socket.create_server(("", free.published)):
        pass  # nothing of ours was left on it


def test_a_redirect_that_fails_fails_the_port(held: Port) -> None:
    takeover = FakeTakeover()
    takeover.broken = "nft is not installed: apt-get install nftables"
    listeners = listeners_of(takeover, DOCKERD)
    with pytest.raises(PortError, match="apt-get install nftables"):
        listeners.open(held, 2)
    assert listeners.recheck() == {}


def test_the_same_number_of_tcp_and_udp_is_redirected_each_for_itself(free: Port, opened: Open) -> None:
    takeover = FakeTakeover("always")
    listeners = listeners_of(takeover)
    both = [replace(free, protocol=protocol) for protocol in Protocol]
    numbers = {port.key: own(opened(listeners, port)) for port in both}
    assert takeover.redirects == numbers


def test_what_docker_holds_of_udp_is_redirected(opened: Open) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("0.0.0.0", 0))
        port = Port(held.getsockname()[1], 53, Protocol.UDP)
        opening = opened(listeners_of(FakeTakeover(), DOCKERD), port)
    assert opening.state is PortState.REDIRECTED


def test_recheck_follows_dockers_rules(free: Port, opened: Open) -> None:
    takeover = FakeTakeover()
    listeners = listeners_of(takeover)
    opened(listeners, free)
    takeover.docker = {(free.published, Protocol.TCP)}
    assert listeners.recheck() == {free: PortState.REDIRECTED}
    assert redirects(takeover) == {free.published: free.published}
    assert "DOCKER-INGRESS" in listeners.reason(free)
    takeover.docker = set()
    assert listeners.recheck() == {free: PortState.SERVING}
    assert redirects(takeover) == {}
    assert listeners.reason(free) == ""


def test_recheck_says_when_a_redirect_is_lost(held: Port, opened: Open) -> None:
    takeover = FakeTakeover()
    listeners = listeners_of(takeover, DOCKERD)
    opened(listeners, held)
    takeover.broken = "the child ended"
    assert listeners.recheck() == {held: PortState.FAILED}
    assert "the child ended" in listeners.reason(held)
    takeover.broken = ""
    assert listeners.recheck() == {held: PortState.REDIRECTED}


def test_recheck_reads_dockers_rules_once(opened: Open) -> None:
    takeover = FakeTakeover("always")
    listeners = listeners_of(takeover)
    for number in range(20000, 20010):
        opened(listeners, Port(number, 8000))
    takeover.readings = 0
    assert len(listeners.recheck()) == 10
    assert takeover.readings == 1


def test_close_drops_one_redirect_and_keeps_the_rest(opened: Open) -> None:
    takeover = FakeTakeover("always")
    listeners = listeners_of(takeover)
    ports = [Port(20000, 8000), Port(20001, 8000)]
    for port in ports:
        opened(listeners, port)
    listeners.close(ports[0])
    assert set(redirects(takeover)) == {20001}
    assert set(listeners.recheck()) == {ports[1]}
    listeners.close(ports[0])  # a second time is no fault
    listeners.shutdown()
    assert takeover.closed
    assert listeners.recheck() == {}


def test_a_port_that_we_listen_on_for_another_is_redirected(opened: Open) -> None:
    takeover = FakeTakeover("auto", 20000)
    listeners = listeners_of(takeover)
    with socket.create_server(("", 20000)):
        first = opened(listeners, Port(20000, 8000))
        second = opened(listeners, Port(own(first), 8000))
    assert redirects(takeover) == {20000: own(first), own(first): own(second)}


def at(takeover: Takeover, *addresses: str, holder: Holder | None = None) -> tuple[Listeners, set[str]]:
    """Listeners of a node that has these addresses now; the set may be changed."""
    own = set(addresses)
    return Listeners(takeover, holder=lambda *_: holder, addresses=lambda: frozenset(own)), own


def bound(sockets: Iterable[socket.socket]) -> list[tuple[str, int]]:
    return [each.getsockname()[:2] for each in sockets]


@pytest.mark.parametrize("protocol", Protocol)
def test_each_address_of_a_port_has_its_sockets(free: Port, protocol: Protocol) -> None:
    listeners, _ = at(FakeTakeover(), "127.0.0.1", "127.0.0.2", "::1", "127.9.0.1")
    port = replace(free, protocol=protocol)
    opening = listeners.open(port, 2, ("127.0.0.0/24", "::1"))
    with contextlib.ExitStack() as stack:
        for each in opening.sockets:
            stack.enter_context(each)
        number = port.published
        assert bound(opening.sockets[::2]) == [("127.0.0.1", number), ("127.0.0.2", number), ("::1", number)]
        assert bound(opening.sockets[::2]) == bound(opening.sockets[1::2])
        assert (opening.state, opening.reason) == (PortState.SERVING, "")
        for elsewhere in listening_sockets(number, 1, protocol, ("127.9.0.1",)):
            elsewhere.close()  # another process may have it there


def test_addresses_that_come_get_sockets_and_none_twice(free: Port) -> None:
    listeners, own = at(FakeTakeover(), "127.0.0.1")
    with contextlib.ExitStack() as stack:
        for each in listeners.open(free, 2, ("127.0.0.0/24",)).sockets:
            stack.enter_context(each)
        assert listeners.more(free, 2) == ()
        own.add("127.0.0.2")
        more = [stack.enter_context(each) for each in listeners.more(free, 2)]
        assert bound(more) == [("127.0.0.2", free.published)] * 2
        own.remove("127.0.0.1")
        assert listeners.more(free, 2) == ()


def test_an_address_that_somebody_else_has_is_left_out_until_it_is_free(free: Port) -> None:
    listeners, own = at(FakeTakeover(), "127.0.0.1")
    with contextlib.ExitStack() as stack:
        for each in listeners.open(free, 1, ("127.0.0.0/24",)).sockets:
            stack.enter_context(each)
        with socket.create_server(("127.0.0.2", free.published)):
            own.add("127.0.0.2")
            assert listeners.more(free, 1) == ()
            assert "left out" in listeners.reason(free)
            assert listeners.recheck() == {free: PortState.SERVING}
        for each in listeners.more(free, 1):
            stack.enter_context(each)
            assert each.getsockname()[0] == "127.0.0.2"
        assert listeners.reason(free) == ""


def test_a_node_without_such_an_address_serves_nobody_and_says_so(free: Port) -> None:
    listeners, own = at(FakeTakeover(), "127.0.0.1")
    opening = listeners.open(free, 1, ("10.250.0.0/16",))
    with contextlib.ExitStack() as stack:
        for each in opening.sockets:
            stack.enter_context(each)
        assert opening.state is PortState.SERVING
        assert "no address of this node is in its listen (10.250.0.0/16)" in opening.reason
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", free.published), 5)
        own.add("10.250.0.1")
        for each in listeners.more(free, 1):
            stack.enter_context(each)
        assert listeners.reason(free) == ""


def test_some_addresses_of_a_port_that_docker_holds_are_redirected_to(held: Port) -> None:
    takeover = FakeTakeover()
    listeners, _ = at(takeover, "127.0.0.1", "127.0.0.2", holder=DOCKERD)
    opening = listeners.open(held, 1, ("127.0.0.0/24",))
    with contextlib.ExitStack() as stack:
        for each in opening.sockets:
            stack.enter_context(each)
        assert opening.state is PortState.REDIRECTED
        assert bound(opening.sockets) == [("127.0.0.1", own(opening)), ("127.0.0.2", own(opening))]
        assert redirects(takeover) == {held.published: own(opening)}


def test_too_many_addresses_are_refused_in_a_sentence(free: Port) -> None:
    listeners, _ = at(FakeTakeover(), *(f"127.0.1.{number}" for number in range(100)))
    with pytest.raises(PortError, match="100 addresses of this node are in its listen; name at most 64"):
        listeners.open(free, 1, ("127.0.0.0/8",))


def test_addresses_that_come_and_go_do_not_add_up(free: Port) -> None:
    listeners, own = at(FakeTakeover(), "127.0.1.0")
    with contextlib.ExitStack() as stack:
        for each in listeners.open(free, 1, ("127.0.0.0/8",)).sockets:
            stack.enter_context(each)
        for number in range(1, 65):
            own.clear()
            own.add(f"127.0.1.{number}")
            for each in listeners.more(free, 1):
                stack.enter_context(each)
        assert listeners.recheck() == {free: PortState.FAILED}  # and the plane opens it anew


def test_addresses_that_cannot_be_asked_for_fail_the_port(free: Port) -> None:
    def refused() -> frozenset[str]:
        raise OSError(97, "Address family not supported by protocol")

    listeners = Listeners(FakeTakeover(), addresses=refused)
    with pytest.raises(PortError, match="cannot be opened: Address family"):
        listeners.open(free, 1, ("127.0.0.0/8",))
