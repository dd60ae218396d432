"""Who tells: nobody but nodes of the own Swarm get anything, nor can they do harm."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from channel import HERE, PACE, connected, run, state, telling, until
from swarm_ca import SwarmCA, certificates, identifier

from meshlb.config import Config, split_address
from meshlb.model import Desired, Node, Service
from meshlb.peers import server as peer_server
from meshlb.peers.identity import MANAGER, WORKER, load
from meshlb.peers.message import decode
from meshlb.peers.server import _bind


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
                name = MANAGER if context else None
                reader, writer = await asyncio.open_connection(
                    HERE, told.peers.port, ssl=context, server_hostname=name
                )
                assert await asyncio.wait_for(_rest(reader), 10) == b""
                writer.close()

    run(scenario())


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_a_shortage_of_files_passes(
    manager: Path, worker: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = socket.socket.accept, [errno.EMFILE, errno.ENOBUFS]

    def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise OSError(failures.pop(), "too many")
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept)

    async def scenario() -> None:
        async with (
            telling(manager, state("one")) as told,
            connected(told.peers.port, worker) as link,
        ):
            assert decode(await link.receive_str()).desired == state("one")

    run(scenario())
    assert not caplog.records


def test_a_state_that_is_told_again_is_no_news(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with (
            telling(manager, state("one")) as told,
            connected(told.peers.port, worker) as link,
        ):
            first = decode(await link.receive_str()).version
            told.peers.publish(state("one"))
            told.peers.publish(state("two"))
            second = decode(await link.receive_str()).version
            assert (first.epoch, first.count + 1) == (second.epoch, second.count)

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
                assert decode(await two.receive_str(timeout=10)).desired == replace(
                    both, nodes=both.nodes[1:]
                )
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


@pytest.mark.parametrize("text", [Config().peers, "[::]:0"])
@pytest.mark.parametrize("place", [HERE, "::1"])
def test_nodes_reach_it_over_either_family(text: str, place: str) -> None:
    with _bind(split_address(text)[0], 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((place, port), timeout=5):
            pass


def test_without_ipv6_it_serves_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with _bind(split_address(Config().peers)[0], 0) as listener:
        assert listener.family is socket.AF_INET
