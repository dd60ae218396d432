"""Who listens: nobody but a manager of the own Swarm is heard, and only in its language."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from channel import HERE, run, running, serving, state, until
from swarm_ca import SwarmCA

from meshlb.peers.identity import MANAGER, WORKER, load
from meshlb.peers.message import SUBPROTOCOL, Version, encode


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
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.peers.counters.peers, "the connection")
            await until(lambda: not heard.peers.counters.peers, "the end of it")
            assert heard.heard == [state("one")]

    run(scenario())


async def refused(context: ssl.SSLContext, listener: Path, said: str, text: str) -> None:
    """A peer with `context` that tells `text` is not heard."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        link = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await link.prepare(request)
        await link.send_str(text)
        await link.receive()
        return link

    async with serving(handle, context) as port, running(listener, port) as heard:
        heard.peers.connect((), (HERE,))
        await until(lambda: said in heard.peers.problem, f"the reason: {said}")
        assert not heard.heard
        assert not heard.peers.counters.peers


GOOD = encode(Version("epoch", 1), state("forged"))


def test_a_worker_that_claims_to_know_is_refused(ca: SwarmCA, worker: Path) -> None:
    run(refused(load(ca.root("rogue", WORKER)).server, worker, "and is not a manager", GOOD))


def test_the_role_is_the_certificates_not_its_name(ca: SwarmCA, worker: Path) -> None:
    rogue = ca.root("rogue", WORKER, names=(MANAGER, "x"))
    run(refused(load(rogue).server, worker, "and is not a manager", GOOD))


def test_a_manager_of_another_swarm_is_refused(ca: SwarmCA, worker: Path, tmp_path: Path) -> None:
    other = SwarmCA(tmp_path / "other").root("manager", MANAGER)
    context = load(other).server
    context.verify_mode = ssl.CERT_NONE  # else it would refuse first
    run(refused(context, worker, "not one of this Swarm", GOOD))


def test_a_manager_of_another_swarm_under_our_authority_is_refused(ca: SwarmCA, worker: Path) -> None:
    other = ca.root("other", MANAGER, cluster="elsewhere")
    run(refused(load(other).server, worker, "belongs to another Swarm", GOOD))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "not JSON"),
        ("{}", "no services"),
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
        heard.peers.connect((), (HERE,))
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
            heard.peers.connect((), (HERE,))
            await until(lambda: state("six") in heard.heard, "the newest state")
            assert heard.heard == [state("five"), state("six")]
            assert heard.peers.counters.stale == 2

    run(scenario())
