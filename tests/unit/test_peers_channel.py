"""Agents over real TLS on loopback: a manager tells, others listen, and nobody else gets anything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from swarm_ca import SwarmCA, certificates, identifier, lock

from meshlb import peer_server
from meshlb.identity import MANAGER, WORKER, load, peer_of
from meshlb.model import Desired, Node, Service
from meshlb.peer_client import Pace
from meshlb.peer_message import SUBPROTOCOL, Version, decode, encode
from meshlb.peers import Peers

HERE = "127.0.0.1"
PATIENCE = 15.0
PACE = Pace(heartbeat=0.4, first_delay=0.05, last_delay=0.2, grace=0.4, look=0.05)


@pytest.fixture
def ca(tmp_path: Path) -> SwarmCA:
    return SwarmCA(tmp_path / "ca")


@pytest.fixture
def manager(ca: SwarmCA) -> Path:
    return ca.root("manager", MANAGER)


@pytest.fixture
def worker(ca: SwarmCA) -> Path:
    return ca.root("worker", WORKER)


class Agent:
    """One agent's end of the channel, and what it heard."""

    def __init__(self, root: Path, port: int = 0, pace: Pace = PACE) -> None:
        self.heard: list[Desired] = []
        self.peers = Peers(root, port=port, address=HERE, on_desired=self.heard.append, pace=pace)

    @property
    def is_informed(self) -> bool:
        """Whether it has looked at its certificate; before that it refuses everybody."""
        return bool(self.peers._keeper.current or self.peers.problem)


@contextlib.asynccontextmanager
async def running(root: Path, port: int = 0, pace: Pace = PACE) -> AsyncIterator[Agent]:
    agent = Agent(root, port, pace)
    task = asyncio.create_task(agent.peers.run())
    try:
        yield agent
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


@contextlib.asynccontextmanager
async def telling(root: Path, state: Desired, port: int = 0, pace: Pace = PACE) -> AsyncIterator[Agent]:
    async with running(root, port, pace) as agent:
        agent.peers.publish(state)
        await until(lambda: agent.peers.port and agent.is_informed, "the manager to listen")
        yield agent


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HERE, port)) == 0


async def until(predicate: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not predicate():  # noqa: ASYNC110  # other threads and sockets change it
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {PATIENCE:g} s in vain for {what}") from None


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def state(name: str) -> Desired:
    return Desired((Service("id", name, (), ()),))


def test_what_a_manager_knows_reaches_a_worker(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.heard == [state("one")], "the first state")
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "the second state")
            told.peers.publish(state("two"))
            told.peers.publish(state("three"))
            await until(lambda: heard.heard[-1] == state("three"), "the third state")
            assert [desired.services[0].name for desired in heard.heard] == ["one", "two", "three"]
            assert (told.peers.counters.clients, heard.peers.counters.managers) == (1, 1)
            assert (told.peers.problem, heard.peers.problem) == ("", "")

    run(scenario())


def test_a_slow_reader_gets_the_newest_state(manager: Path, worker: Path) -> None:
    unhurried = replace(PACE, heartbeat=60.0)

    async def scenario() -> None:
        async with (
            telling(manager, state("0"), pace=unhurried) as told,
            connected(told.peers.port, worker) as link,
        ):
            assert decode(await link.receive_str()).desired == state("0")
            for number in range(300):
                told.peers.publish(large(number))
                await asyncio.sleep(0)
            told.peers.publish(state("last"))
            seen = 1
            while decode(await link.receive_str(timeout=10)).desired != state("last"):
                seen += 1
            assert seen < 150

    run(scenario())


def large(number: int) -> Desired:
    """A state of some 100 kB, more than the kernel buffers hold many of."""
    return Desired(tuple(Service(f"{number}", f"{index}{'x' * 240}", (), ()) for index in range(350)))


@contextlib.asynccontextmanager
async def connected(
    port: int, root: Path, protocols: tuple[str, ...] = (SUBPROTOCOL,), path: str = "/peers"
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket of the test's own, with the certificate in `root`."""
    context = load(root).client
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"https://{HERE}:{port}{path}", ssl=context, server_hostname=MANAGER, protocols=protocols
        ) as link,
    ):
        yield link


def test_a_manager_that_is_none_any_more_hangs_up_and_listens_no_more(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.heard, "the state")
            port = told.peers.port
            told.peers.publish(None)
            await until(lambda: not heard.peers.counters.managers, "the end of the connection")
            await until(lambda: not _listens(port), "the port to be closed")
            assert heard.heard == [state("one")]

    run(scenario())


def test_a_listener_connects_again_when_the_manager_is_back(
    manager: Path, worker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "meshlb")

    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            port = told.peers.port
            heard = Agent(worker, port)
            task = asyncio.create_task(heard.peers.run())
            heard.peers.connect((HERE,))
            await until(lambda: heard.heard, "the state")
        await until(
            lambda: "no manager's agent is reachable" in heard.peers.problem, "the problem to be told"
        )
        async with telling(manager, state("two"), port):
            await until(lambda: heard.heard[-1] == state("two"), "the state of the new agent")
            await until(lambda: not heard.peers.problem, "the problem to end")
        task.cancel()
        await asyncio.wait([task])

    run(scenario())
    lines = [record.getMessage() for record in caplog.records]
    assert sum("no manager's agent is reachable" in line for line in lines) == 1
    assert lines.count("connected to a manager's agent again") == 1


def test_a_manager_that_freezes_is_left(manager: Path, worker: Path) -> None:
    """It accepts, tells once, and then neither answers pings nor hangs up."""

    async def scenario() -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            link = web.WebSocketResponse(protocols=(SUBPROTOCOL,), autoping=False)
            await link.prepare(request)
            await link.send_str(encode(Version("frozen", 1), state("one")))
            await asyncio.sleep(3600)
            return link

        async with serving(handle, load(manager).server) as port, running(worker, port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.peers.counters.managers, "the connection")
            await until(lambda: not heard.peers.counters.managers, "the end of it")
            assert heard.heard == [state("one")]

    run(scenario())


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[web.BaseRequest], Coroutine[Any, Any, web.StreamResponse]], context: ssl.SSLContext
) -> AsyncIterator[int]:
    """A peer that does what it likes."""
    server = web.Server(handle)
    listener = await asyncio.get_running_loop().create_server(server, HERE, 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await server.shutdown(0.1)


async def refused(context: ssl.SSLContext, listener: Path, said: str, text: str) -> None:
    """A peer with `context` that tells `text` is not heard."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        link = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await link.prepare(request)
        await link.send_str(text)
        await link.receive()
        return link

    async with serving(handle, context) as port, running(listener, port) as heard:
        heard.peers.connect((HERE,))
        await until(lambda: said in heard.peers.problem, f"the reason: {said}")
        assert not heard.heard
        assert not heard.peers.counters.managers


GOOD = encode(Version("epoch", 1), state("forged"))


def test_a_worker_that_claims_to_know_is_refused(ca: SwarmCA, worker: Path) -> None:
    run(refused(load(ca.root("rogue", WORKER)).server, worker, "Hostname mismatch", GOOD))


def test_the_role_is_the_certificates_not_its_name(ca: SwarmCA, worker: Path) -> None:
    rogue = ca.root("rogue", WORKER, names=(MANAGER, "x"))
    run(refused(load(rogue).server, worker, "is not a manager but a swarm-worker", GOOD))


def test_a_manager_of_another_swarm_is_refused(ca: SwarmCA, worker: Path, tmp_path: Path) -> None:
    other = SwarmCA(tmp_path / "other").root("manager", MANAGER)
    context = load(other).server
    context.verify_mode = ssl.CERT_NONE  # else it would refuse first
    run(refused(context, worker, "not one of a manager of this Swarm", GOOD))


def test_a_manager_of_another_swarm_under_our_authority_is_refused(ca: SwarmCA, worker: Path) -> None:
    other = ca.root("other", MANAGER, cluster="elsewhere")
    run(refused(load(other).server, worker, "belongs to another Swarm", GOOD))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "not JSON"),
        ("{}", "no epoch"),
        ("[" * 100_000, "nested too deeply"),
        ("x" * (5 << 20), "Message size"),
    ],
    ids=["text", "empty", "nested", "large"],
)
def test_garbage_ends_the_connection_and_is_counted_and_logged_once(
    manager: Path, worker: Path, caplog: pytest.LogCaptureFixture, text: str, said: str
) -> None:
    asyncio.run(_garbage(manager, worker, text, said))
    assert sum("hung up on" in record.getMessage() for record in caplog.records) == 1


async def _garbage(manager: Path, worker: Path, text: str, said: str) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        link = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await link.prepare(request)
        await link.send_str(text)
        await link.receive()
        return link

    async with serving(handle, load(manager).server) as port, running(worker, port) as heard:
        heard.peers.connect((HERE,))
        await until(lambda: heard.peers.counters.garbage >= 3, "three pieces of garbage")
        await until(lambda: said in heard.peers.problem, "the problem")
        assert not heard.heard


def test_older_states_are_not_taken_again(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            link = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
            await link.prepare(request)
            for count, name in ((5, "five"), (4, "four"), (5, "again"), (6, "six")):
                await link.send_str(encode(Version("epoch", count), state(name)))
            await link.receive()
            return link

        async with serving(handle, load(manager).server) as port, running(worker, port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: state("six") in heard.heard, "the newest state")
            assert heard.heard == [state("five"), state("six")]
            assert heard.peers.counters.stale == 2

    run(scenario())


def test_no_certificate_gets_nothing(manager: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(certificates(manager) / "swarm-root-ca.crt")
            reader, writer = await asyncio.open_connection(
                HERE, told.peers.port, ssl=context, server_hostname=MANAGER
            )
            writer.write(b"GET /peers HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(OSError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            assert told.peers.counters.refused == 1

    run(scenario())


def test_plain_text_gets_nothing(manager: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            reader, writer = await asyncio.open_connection(HERE, told.peers.port)
            writer.write(b"GET /peers HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(OSError):
                assert b"HTTP" not in await reader.read()
            writer.close()
            await until(lambda: told.peers.counters.refused, "the refusal to be counted")

    run(scenario())


def test_whoever_says_nothing_is_shown_out(
    manager: Path, worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the handshake, and after it."""
    monkeypatch.setattr(peer_server, "HANDSHAKE", 0.3)

    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            for context in (None, load(worker).client):
                reader, writer = await asyncio.open_connection(
                    HERE, told.peers.port, ssl=context, server_hostname=MANAGER if context else None
                )
                with contextlib.suppress(OSError):
                    async with asyncio.timeout(10):
                        assert await reader.read() == b""
                writer.close()

    run(scenario())


def test_one_address_cannot_keep_others_out_with_handshakes(manager: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            held = [await asyncio.open_connection(HERE, told.peers.port) for _ in range(12)]
            await until(lambda: told.peers.counters.refused == 4, "the ninth to twelfth to be refused")
            for _, writer in held:
                writer.close()

    run(scenario())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"protocols": ()}, "speaks"),
        ({"protocols": ("meshlb.desired.v9",)}, "speaks"),
        ({"path": "/x"}, "at"),
    ],
)
def test_another_language_is_refused(
    manager: Path, worker: Path, options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                async with connected(told.peers.port, worker, **options):
                    pass

    run(scenario())
    assert reason in caplog.text


@pytest.mark.parametrize("message", ["hello", b"hello", "x" * 5000])
def test_a_listener_that_talks_is_hung_up_on(manager: Path, worker: Path, message: str | bytes) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            async with connected(told.peers.port, worker) as link:
                await link.receive_str()
                await (link.send_str(message) if isinstance(message, str) else link.send_bytes(message))
                received = await link.receive(timeout=10)
                assert received.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)
            await until(lambda: not told.peers.counters.clients, "the end of the connection")

    run(scenario())


def test_a_node_that_was_removed_is_not_let_in_and_hung_up_on(ca: SwarmCA, manager: Path) -> None:
    async def scenario() -> None:
        first, second = identifier(), identifier()
        roots = [ca.root(name, WORKER, node_id=name) for name in (first, second)]
        both = Desired((), (Node(first, "", ""), Node(second, "", "")))
        async with telling(manager, both) as told:
            async with (
                connected(told.peers.port, roots[0]) as one,
                connected(told.peers.port, roots[1]) as two,
            ):
                assert decode(await one.receive_str()).desired == both
                await two.receive_str()
                told.peers.publish(replace(both, nodes=both.nodes[1:]))
                assert (await one.receive(timeout=10)).type is WSMsgType.CLOSE
                assert decode(await two.receive_str(timeout=10)).desired.nodes == both.nodes[1:]
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                async with connected(told.peers.port, roots[0]):
                    pass

    run(scenario())


def test_a_node_has_four_connections_at_most(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(connected(told.peers.port, worker))
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await stack.enter_async_context(connected(told.peers.port, worker))

    run(scenario())


def test_connections_survive_a_renewal_and_new_ones_use_the_new_certificate(
    ca: SwarmCA, manager: Path, worker: Path
) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.heard, "the state")
            await asyncio.to_thread(ca.issue, manager, MANAGER, node_id="renewed")
            async with asyncio.timeout(10):
                while await shown(told.peers.port, worker) != "renewed":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "a state after the renewal")
            assert heard.peers.counters.managers == 1
            assert heard.peers.counters.stale == 0  # it never had to connect again

    run(scenario())


async def shown(port: int, root: Path) -> str:
    """The node id in the certificate that is shown at `port`."""
    _, writer = await asyncio.open_connection(HERE, port, ssl=load(root).client, server_hostname=MANAGER)
    try:
        return peer_of(writer.get_extra_info("ssl_object")).node_id
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_a_manager_that_leaves_its_swarm_hangs_up(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.heard, "the state")
            shutil.rmtree(manager / "swarm")
            await until(lambda: not heard.peers.counters.managers, "the end of the connection")
            await until(lambda: "is this node in a Swarm?" in told.peers.problem, "the problem")
            await until(lambda: "no manager's agent is reachable" in heard.peers.problem, "the other problem")

    run(scenario())


def test_a_worker_that_moves_to_another_swarm_hears_its_managers(
    manager: Path, worker: Path, tmp_path: Path
) -> None:
    other = SwarmCA(tmp_path / "other")
    there = other.root("manager", MANAGER)

    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.heard, "the state")
            await asyncio.to_thread(other.issue, worker, WORKER)
            await until(lambda: not told.peers.counters.clients, "the worker to hang up")
            port = told.peers.port
            told.peers.publish(None)
            async with telling(there, state("two"), port):
                await until(lambda: heard.heard[-1] == state("two"), "the other Swarm's state")

    run(scenario())


def test_an_autolocked_manager_says_so_and_serves_once_it_is_unlocked(
    ca: SwarmCA, manager: Path, worker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock(manager)
    caplog.set_level(logging.INFO, "meshlb")

    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: "autolock" in told.peers.problem, "the problem")
            await until(lambda: told.peers.counters.refused > 2, "some connections to be refused")
            await asyncio.to_thread(ca.issue, manager, MANAGER)
            await until(lambda: heard.heard == [state("one")], "the state")
            assert not told.peers.problem

    run(scenario())
    lines = [record.getMessage() for record in caplog.records]
    assert sum("autolock" in line for line in lines) == 1
    assert lines.count("Swarm's certificates can be used again") == 1


def test_a_port_that_is_taken_is_said_and_tried_again(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        with socket.create_server((HERE, 0)) as other:
            port = other.getsockname()[1]
            told = await stack.enter_async_context(running(manager, port))
            told.peers.publish(state("one"))
            await until(
                lambda: f"{HERE}:{port}: another process listens" in told.peers.problem, "the problem"
            )
        heard = await stack.enter_async_context(running(worker, port))
        heard.peers.connect((HERE,))
        await until(lambda: heard.heard, "the state")
        assert not told.peers.problem

    async def both() -> None:
        async with stack:
            await scenario()

    stack = contextlib.AsyncExitStack()
    run(both())


def test_a_port_that_is_taken_is_no_problem_of_a_worker(worker: Path) -> None:
    async def scenario() -> None:
        with socket.create_server((HERE, 0)) as other:
            async with running(worker, other.getsockname()[1]) as agent:
                agent.peers.publish(state("one"))
                await until(lambda: agent.peers.problem, "the problem")
                agent.peers.publish(None)
                await until(lambda: not agent.peers.problem, "its end")

    run(scenario())


def test_managers_come_and_go(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect(("127.0.0.1", "127.0.0.2", "not an address", "::1"))
            await until(lambda: heard.heard, "the state")
            await until(lambda: told.peers.counters.clients == 1, "one connection")
            heard.peers.connect(("127.0.0.2",))
            await until(lambda: not told.peers.counters.clients, "the end of it")
            await until(lambda: "127.0.0.2" in heard.peers.problem, "the problem")
            heard.peers.connect(())
            await until(lambda: not heard.peers.problem, "nothing to complain about")
            heard.peers.connect(("127.0.0.1",))
            await until(lambda: told.peers.counters.clients == 1, "the connection again")
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "the next state")
            assert heard.heard == [state("one"), state("two")]

    run(scenario())


def test_of_two_managers_the_one_heard_last_rules(ca: SwarmCA, manager: Path, worker: Path) -> None:
    second = ca.root("second", MANAGER)

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            told = await stack.enter_async_context(telling(manager, state("one")))
            port = told.peers.port
            other = Peers(second, port=port, address="127.0.0.2", on_desired=print, pace=PACE)
            other.publish(state("other"))
            task = asyncio.create_task(other.run())
            heard = await stack.enter_async_context(running(worker, port))
            heard.peers.connect((HERE, "127.0.0.2"))
            await until(lambda: len(heard.heard) == 2, "both states")
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "the first one's news")
            other.publish(state("three"))
            await until(lambda: heard.heard[-1] == state("three"), "the second one's news")
            task.cancel()
            await asyncio.wait([task])
            assert not heard.peers.problem

    run(scenario())


def test_a_state_that_is_too_large_is_a_problem_and_the_last_one_stays(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            told.peers.publish(Desired((), (), frozenset(str(number) for number in range(100_001))))
            assert "100001 stopping; 100000 are allowed" in told.peers.problem
            async with running(worker, told.peers.port) as heard:
                heard.peers.connect((HERE,))
                await until(lambda: heard.heard == [state("one")], "the state")
            told.peers.publish(state("two"))
            assert not told.peers.problem

    run(scenario())


def test_nothing_is_left_behind(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.heard, "the state")
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())
    before = len(list(Path("/proc/self/fd").iterdir()))
    run(scenario())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("name", ["uvloop"])
def test_it_works_on_uvloop_too(manager: Path, worker: Path, name: str) -> None:
    uvloop = pytest.importorskip(name)

    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.heard, "the state")
            told.peers.publish(None)
            await until(lambda: not heard.peers.counters.managers, "the end")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
