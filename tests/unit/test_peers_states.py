"""What agents tell of their own tasks, who is silent, and what becomes of those who say too much."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from channel import HERE, PACE, THERE, Agent, connected, run, running, serving, state, telling, until
from swarm_ca import SwarmCA, identifier

from meshlb.model import BackendState, Desired, Node, Remote
from meshlb.peers.allowance import MESSAGES
from meshlb.peers.channel import Peers
from meshlb.peers.dial import Dials
from meshlb.peers.identity import WORKER, load
from meshlb.peers.message import FORMER, SUBPROTOCOL, Version, decode, encode, encode_tasks

DRAINING, DOWN = BackendState.DRAINING, BackendState.DOWN


class Hosts:
    """Hosts that answer, except for those that are `silent`."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self._asked: set[str] = set()
        self._dialled: dict[str, float] = {}

    def ask(self, addresses: Iterable[str]) -> None:
        self._asked |= set(addresses)

    def answers(self) -> set[str]:
        found, self._asked = self._asked - self.silent, set()
        return found

    def start(self, address: str, now: float) -> None:
        self._dialled.setdefault(address, now)

    def stop(self, address: str) -> None:
        self._dialled.pop(address, None)

    def results(self, now: float) -> dict[str, bool]:
        found, self._dialled = {address: address not in self.silent for address in self._dialled}, {}
        return found

    def close(self) -> None:
        """Nothing is open."""


def test_a_workers_tasks_are_told_to_all_and_back_to_health(ca: SwarmCA, worker: Path) -> None:
    async def scenario() -> None:
        async with running(worker, address=HERE) as told:
            await until(lambda: told.peers.port and told.is_informed, "the worker to listen")
            async with running(ca.root("other"), told.peers.port) as heard:
                heard.peers.connect((HERE,))
                told.peers.tell({"t": DRAINING})
                await until(lambda: heard.peers.remote.tasks == {HERE: {"t": DRAINING}}, "the sick task")
                told.peers.tell({})
                await until(lambda: heard.peers.remote == Remote(), "its health")
                told.peers.tell({"t": DOWN, "u": DRAINING})
                await until(lambda: heard.remote[-1].tasks == {HERE: {"t": DOWN, "u": DRAINING}}, "its end")
                assert heard.peers.counters.peers == 1
                assert not heard.heard

    run(scenario())


def test_the_address_for_a_nodes_data_is_told(ca: SwarmCA, worker: Path) -> None:
    async def scenario() -> None:
        async with running(worker, address=HERE) as told:
            await until(lambda: told.peers.port and told.is_informed, "the worker to listen")
            async with running(ca.root("other"), told.peers.port) as heard:
                heard.peers.connect((HERE,))
                told.peers.tell({}, None, "172.16.0.1")
                await until(lambda: heard.peers.remote.paths == {"172.16.0.1": HERE}, "the address")
                told.peers.tell({"t": DOWN})  # an agent that does not know yet
                await until(lambda: heard.peers.remote.tasks, "a state")
                assert heard.peers.remote.paths
                told.peers.tell({}, None, "")
                await until(lambda: heard.remote[-1] == Remote(), "that there is none")

    run(scenario())


def test_a_task_that_another_node_runs_is_not_taken(ca: SwarmCA, worker: Path) -> None:
    async def scenario() -> None:
        async with running(worker, address=HERE) as told:
            await until(lambda: told.peers.port and told.is_informed, "the worker to listen")
            async with running(ca.root("other"), told.peers.port) as heard:
                heard.peers.place({"own": HERE, "other": "10.0.0.9"})
                heard.peers.connect((HERE,))
                told.peers.tell({"own": DRAINING, "other": DOWN})
                await until(lambda: heard.peers.remote.tasks, "the states")
                assert heard.peers.remote.tasks == {HERE: {"own": DRAINING}}
                assert heard.peers.counters.foreign == 1

    run(scenario())


def test_a_node_in_anothers_place_is_hung_up_on(ca: SwarmCA, manager: Path) -> None:
    impostor, real = identifier(), identifier()

    async def scenario() -> None:
        root = ca.root("impostor", WORKER, node_id=impostor)
        async with running(root, address=HERE) as told:
            await until(lambda: told.peers.port and told.is_informed, "the impostor to listen")
            told.peers.tell({"t": DOWN})
            async with running(manager, told.peers.port) as heard:
                heard.peers.publish(Desired((), (Node(real, "n", HERE), Node(impostor, "m", "10.0.0.9"))))
                heard.peers.connect((HERE,))
                await until(lambda: heard.peers.counters.garbage, "the end of the connection")
                assert heard.peers.remote == Remote()
                assert heard.peers.counters.peers == 0

    run(scenario())


def test_states_of_tasks_end_some_time_after_their_agent(ca: SwarmCA, worker: Path) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            told = await stack.enter_async_context(running(worker, address=HERE))
            await until(lambda: told.peers.port and told.is_informed, "the worker to listen")
            told.peers.tell({"t": DRAINING})
            async with running(ca.root("other"), told.peers.port, replace(PACE, kept=0.5)) as heard:
                heard.peers.connect((HERE,))
                await until(lambda: heard.peers.remote.tasks, "the states")
                await stack.aclose()
                assert heard.peers.remote.tasks
                await until(lambda: not heard.peers.remote.tasks, "their end")

    run(scenario())


def test_a_listener_of_a_former_release_hears_managers_alone(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            told.peers.tell({"t": DOWN})
            async with connected(told.peers.port, worker, (FORMER,)) as link:
                assert decode(await link.receive_str()).desired == state("one")
                told.peers.tell({})
                told.peers.publish(state("two"))
                assert decode(await link.receive_str()).desired == state("two")
            async with connected(told.peers.port, worker, (SUBPROTOCOL, FORMER)) as link:
                assert link.protocol == SUBPROTOCOL
                assert {decode(await link.receive_str()).part for _ in range(2)} == {"desired", "tasks"}

    run(scenario())


def test_a_manager_of_a_former_release_is_heard(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            link = web.WebSocketResponse(protocols=(FORMER,))
            await link.prepare(request)
            await link.send_str(encode(Version("epoch", 1), state("one")))
            await link.receive()
            return link

        async with serving(handle, load(manager).server) as port, running(worker, port) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard == [state("one")], "its state")

    run(scenario())


Flood = Callable[[web.WebSocketResponse], Coroutine[Any, Any, None]]


async def _messages(link: web.WebSocketResponse) -> None:
    for count in range(int(MESSAGES) * 10):
        await link.send_str(encode_tasks(Version("epoch", count), {"t": DOWN}))


async def _pings(link: web.WebSocketResponse) -> None:
    for _ in range(int(MESSAGES) * 10):
        await link.ping(b"are you there?")


@pytest.mark.parametrize("flood", [_messages, _pings])
def test_who_sends_more_than_it_may_is_hung_up_on(
    manager: Path, worker: Path, flood: Flood, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            link = web.WebSocketResponse(protocols=(SUBPROTOCOL,), autoping=False)
            await link.prepare(request)
            with contextlib.suppress(OSError):
                await flood(link)
                while (await link.receive()).type is WSMsgType.PONG:
                    pass
            return link

        unhurried = replace(PACE, heartbeat=60.0)
        async with serving(handle, load(manager).server) as port, running(worker, port, unhurried) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.peers.counters.garbage, "the end of the connection")
            assert "more than any agent does" in caplog.text

    run(scenario())


def test_a_listener_that_floods_with_pings_is_hung_up_on(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, connected(told.peers.port, worker) as link:
            with contextlib.suppress(OSError):
                for _ in range(int(MESSAGES) * 10):
                    await link.ping()
            await until(lambda: not told.peers.counters.clients, "the end of the connection")
            assert told.peers.counters.refused == 1

    run(scenario())


def test_whoever_only_looks_whether_a_node_answers_is_not_counted(manager: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            dials = Dials(told.peers.port, 5.0)
            for now in range(5):
                dials.start(HERE, now)
                await until(lambda now=now: dials.results(now), "an answer")  # type: ignore[misc]
            async with connected(told.peers.port, manager):
                assert told.peers.counters.refused == 0

    run(scenario())


@contextlib.asynccontextmanager
async def watching(root: Path, port: int, hosts: Hosts) -> Any:
    """An agent that asks these hosts for signs of life."""
    agent = Agent(root)
    agent.peers = Peers(
        root,
        port=port,
        address=THERE,
        on_desired=agent.heard.append,
        on_remote=agent.remote.append,
        pace=PACE,
        ask=(hosts, hosts),
    )
    task = asyncio.create_task(agent.peers.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_a_silent_node_is_left_and_heard_again_at_once(
    manager: Path, worker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "meshlb")

    async def scenario() -> None:
        hosts = Hosts()
        async with telling(manager, state("one")) as told, watching(worker, told.peers.port, hosts) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard, "the state")
            await until(lambda: heard.peers._watch._hosts[HERE].echoes, "its first answer")
            hosts.silent.add(HERE)
            await until(lambda: heard.peers.remote.suspected == {HERE}, "the suspicion")
            await until(lambda: not told.peers.counters.clients, "the old connection to be given up")
            told.peers.publish(state("two"))
            await until(lambda: heard.peers.remote.dead == {HERE}, "its death")
            assert state("two") not in heard.heard, "nobody connects to who is silent"
            assert "silent" in heard.peers.problem
            hosts.silent.clear()
            await until(lambda: heard.heard[-1] == state("two"), "its news")
            assert heard.peers.remote == Remote()

    run(scenario())
    lines = [record.getMessage() for record in caplog.records if "nodes 127" in record.getMessage()]
    assert [line.split("are ")[1].partition(":")[0] for line in lines] == [
        "silent",
        "still silent",
        "answering again",
    ]


GONE = "192.0.2.9"  # nothing is there


def test_a_silent_node_is_looked_for_while_managers_list_it(
    manager: Path, worker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "meshlb")

    async def scenario() -> None:
        hosts, whole = Hosts(), Desired((), (Node("", "gone", GONE),))
        async with telling(manager, whole) as told, watching(worker, told.peers.port, hosts) as heard:
            heard.peers.connect((GONE,), (HERE,))
            await until(lambda: heard.heard, "the state")
            heard.peers._watch.answered(GONE)
            await until(lambda: heard.peers._watch._hosts[GONE].echoes, "an echo")
            hosts.silent.add(GONE)
            await until(lambda: heard.peers.remote.suspected == {GONE}, "the suspicion")
            heard.peers.connect((), (HERE,))
            assert heard.peers.addresses == (HERE, GONE)
            await until(lambda: heard.peers.remote.dead == {GONE}, "its death")
            told.peers.publish(Desired())
            await until(lambda: heard.peers.remote == Remote(), "that it is removed")
            assert heard.peers.addresses == (HERE,)

    run(scenario())
    lines = [record.getMessage() for record in caplog.records if f"nodes {GONE}" in record.getMessage()]
    assert [line.split("are ")[1].partition(":")[0] for line in lines] == [
        "silent",
        "still silent",
        "not looked for any more",
    ]


def test_an_agent_that_ends_is_not_silent(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        hosts = Hosts()
        async with contextlib.AsyncExitStack() as stack:
            told = await stack.enter_async_context(telling(manager, state("one")))
            async with watching(worker, told.peers.port, hosts) as heard:
                heard.peers.connect((), (HERE,))
                await until(lambda: heard.heard, "the state")
                await stack.aclose()
                await until(lambda: not heard.peers.counters.peers, "the end of the connection")
                await asyncio.sleep(1)
                assert not heard.remote

    run(scenario())


def test_an_agent_that_is_refused_is_known_to_answer(worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without an agent is watched all the same."""

    async def scenario() -> None:
        hosts = Hosts()
        with socket.create_server((HERE, 0)) as free:
            port = free.getsockname()[1]
        async with watching(worker, port, hosts) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.peers._watch._hosts[HERE].watched, "the refusal")

    run(scenario())


def test_nothing_is_suspected_while_this_machine_cannot_dial(
    manager: Path, worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors, say: echoes are lost, but nothing shows that the other is."""

    async def scenario() -> None:
        hosts = Hosts()
        async with telling(manager, state("one")) as told, watching(worker, told.peers.port, hosts) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard, "the state")
            dials = Dials(told.peers.port, 0.1)
            monkeypatch.setattr(heard.peers._watch, "_dials", dials)
            monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.EMFILE)
            await until(lambda: heard.peers._watch._hosts[HERE].echoes, "its first answer")
            hosts.silent.add(HERE)
            await asyncio.sleep(1.5)
            assert not heard.remote

    run(scenario())


def test_at_most_256_nodes_are_listened_to(worker: Path) -> None:
    peers = Peers(worker, on_desired=print)
    peers.connect([f"10.0.{number // 250}.{number % 250}" for number in range(1000)], ("10.9.9.9",))
    assert len(peers.addresses) == 256
    assert "10.9.9.9" in peers.addresses
