"""Agents over real TLS on loopback: a manager tells, others listen, through all that changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from channel import HERE, PACE, Agent, connected, run, running, shown, state, telling, until
from swarm_ca import SwarmCA, identifier, lock

from meshlb.model import BackendState, Desired, Port, Service
from meshlb.peers.channel import Peers
from meshlb.peers.client import ahead
from meshlb.peers.identity import MANAGER, WORKER
from meshlb.peers.message import SUBPROTOCOL, TASKS, decode


def test_what_a_manager_knows_reaches_a_worker(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard == [state("one")], "the first state")
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "the second state")
            told.peers.publish(state("two"))
            told.peers.publish(state("three"))
            await until(lambda: heard.heard[-1] == state("three"), "the third state")
            assert [desired.services[0].name for desired in heard.heard] == ["one", "two", "three"]
            assert (told.peers.counters.clients, heard.peers.counters.peers) == (1, 1)
            assert (told.peers.problem, heard.peers.problem) == ("", "")
            assert set(heard.peers.clocks) == {HERE}
            assert abs(heard.peers.clocks[HERE]) < 60  # one machine, one clock
            heard.peers.connect((), ())
            assert heard.peers.clocks == {}

    run(scenario())


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Wed, 25 Nov 2026 12:00:00 GMT", 0),
        ("Wed, 25 Nov 2026 12:00:30 GMT", 30),
        ("Wed, 25 Nov 2026 11:59:00 GMT", -60),
        ("", None),
        ("soon", None),
        ("Wed, 25 Nov 99999999999 12:00:00 GMT", None),
        ("Wed, 99 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_how_far_a_clock_is_ahead(date: str, seconds: int | None) -> None:
    noon = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
    assert ahead(date, noon + 0.5) == seconds


def test_a_manager_that_is_none_any_more_tells_its_tasks_alone(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard, "the state")
            told.peers.publish(None)
            async with connected(told.peers.port, worker, protocols=(SUBPROTOCOL,)) as link:
                assert decode(await link.receive_str()).part == TASKS
                with pytest.raises(TimeoutError):
                    await link.receive_str(timeout=0.3)
            assert heard.peers.counters.peers == 1
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
            heard.peers.connect((), (HERE,))
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


def test_connections_survive_a_renewal_and_new_ones_use_the_new_certificate(
    ca: SwarmCA, manager: Path, worker: Path
) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard, "the state")
            await asyncio.to_thread(ca.issue, manager, MANAGER, node_id="renewed")
            async with asyncio.timeout(10):
                while await shown(told.peers.port, worker) != "renewed":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "a state after the renewal")
            assert heard.peers.counters.peers == 1
            assert heard.peers.counters.stale == 0  # it never had to connect again

    run(scenario())


def test_a_worker_that_is_promoted_is_heard_as_a_manager_at_once(ca: SwarmCA, worker: Path) -> None:
    node = identifier()
    root = ca.root("promoted", WORKER, node_id=node)

    async def scenario() -> None:
        async with running(root, address=HERE) as told:
            await until(lambda: told.peers.port and told.is_informed, "the worker to listen")
            async with running(worker, told.peers.port) as heard:
                heard.peers.connect((HERE,))
                await until(lambda: heard.peers.counters.peers, "the connection")
                told.peers.publish(state("one"))  # its engine may be faster than its certificate
                told.peers.tell({"t": BackendState.DOWN})
                await until(lambda: heard.peers.remote.tasks, "what it tells as a worker")
                await asyncio.to_thread(ca.issue, root, MANAGER, node_id=node)
                await until(lambda: heard.heard == [state("one")], "what it tells as a manager")
                assert heard.peers.counters.garbage == 0

    run(scenario())


def test_a_manager_that_is_demoted_is_not_taken_for_one_on_old_connections(ca: SwarmCA, worker: Path) -> None:
    node = identifier()
    root = ca.root("demoted", MANAGER, node_id=node)

    async def scenario() -> None:
        async with telling(root, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((HERE,))
            await until(lambda: heard.peers._beliefs.advisers == {HERE}, "the state")
            told.peers.publish(None)
            await asyncio.to_thread(ca.issue, root, WORKER, node_id=node)
            await until(lambda: not heard.peers._beliefs.advisers, "another connection")
            assert heard.peers.counters.garbage == 0

    run(scenario())


def test_a_manager_that_leaves_its_swarm_hangs_up(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard, "the state")
            shutil.rmtree(manager / "swarm")
            await until(lambda: not heard.peers.counters.peers, "the end of the connection")
            await until(lambda: "is this node in a Swarm?" in told.peers.problem, "the problem")
            await until(lambda: "no manager's agent is reachable" in heard.peers.problem, "the other problem")

    run(scenario())


def test_a_worker_that_moves_to_another_swarm_hears_its_managers(
    manager: Path, worker: Path, tmp_path: Path
) -> None:
    other = SwarmCA(tmp_path / "other")
    there = other.root("manager", MANAGER)

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as first:
            told = await first.enter_async_context(telling(manager, state("one")))
            port = told.peers.port
            async with running(worker, port) as heard:
                heard.peers.connect((), (HERE,))
                await until(lambda: heard.heard, "the state")
                await asyncio.to_thread(other.issue, worker, WORKER)
                await until(lambda: not told.peers.counters.clients, "the worker to hang up")
                await first.aclose()
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
            heard.peers.connect((), (HERE,))
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
            told = await stack.enter_async_context(running(manager, port, address=HERE))
            told.peers.publish(state("one"))
            await until(
                lambda: f"{HERE}:{port}: another process listens" in told.peers.problem, "the problem"
            )
        heard = await stack.enter_async_context(running(worker, port))
        heard.peers.connect((), (HERE,))
        await until(lambda: heard.heard, "the state")
        assert not told.peers.problem

    async def both() -> None:
        async with stack:
            await scenario()

    stack = contextlib.AsyncExitStack()
    run(both())


def test_managers_come_and_go(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect(("127.0.0.1",), ("127.0.0.2", "not an address", "::1"))
            await until(lambda: heard.heard, "the state")
            await until(lambda: told.peers.counters.clients == 1, "one connection")
            heard.peers.connect((), ("127.0.0.2",))
            await until(lambda: not told.peers.counters.clients, "the end of it")
            await until(lambda: "127.0.0.2" in heard.peers.problem, "the problem")
            heard.peers.connect(())
            await until(lambda: not heard.peers.problem, "nothing to complain about")
            heard.peers.connect(("127.0.0.1",))
            await until(lambda: told.peers.counters.clients == 1, "the connection again")
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "the next state")
            assert list(dict.fromkeys(each.services for each in heard.heard)) == [
                state("one").services,
                state("two").services,
            ]

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
            heard.peers.connect((), (HERE, "127.0.0.2"))
            await until(lambda: len(heard.heard) == 2, "both states")
            told.peers.publish(state("two"))
            await until(lambda: heard.heard[-1] == state("two"), "the first one's news")
            other.publish(state("three"))
            await until(lambda: heard.heard[-1] == state("three"), "the second one's news")
            task.cancel()
            await asyncio.wait([task])
            assert not heard.peers.problem

    run(scenario())


def test_a_manager_that_does_not_follow_is_heard_as_one_and_heard_again(manager: Path, worker: Path) -> None:
    old = replace(state("one"), old=True)

    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard == [state("one")], "the state")
            told.peers.publish(old)
            await until(lambda: heard.heard == [state("one"), old], "its age")
            told.peers.publish(state("one"))
            await until(lambda: heard.heard == [state("one"), old, state("one")], "the state as it is")
            told.peers.publish(replace(old, stopping=frozenset({"t"})))
            await until(lambda: heard.heard[-1] == old, "that nothing stops any more")
            assert not heard.peers.problem

    run(scenario())


def test_a_state_that_is_too_large_is_a_problem_and_the_last_one_stays(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told:
            told.peers.publish(Desired((), (), frozenset(str(number) for number in range(100_001))))
            assert "100001 stopping; 100000 are allowed" in told.peers.problem
            async with running(worker, told.peers.port) as heard:
                heard.peers.connect((), (HERE,))
                await until(lambda: heard.heard == [state("one")], "the state")
            told.peers.publish(state("one"))
            await until(lambda: not told.peers.problem, "its end, as all is as it was before")
            ports = tuple(Port(number, 80) for number in range(1, 1002))
            told.peers.publish(Desired((Service("m", "more", ports, ()),)))
            assert "service more: it publishes 1001 ports" in told.peers.problem
            told.peers.publish(state("two"))
            await until(lambda: not told.peers.problem, "its end")

    run(scenario())


def test_without_managers_nothing_is_about_to_stop_any_more(manager: Path, worker: Path) -> None:
    desired = Desired(state("one").services, (), frozenset({"t"}))

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            told = await stack.enter_async_context(telling(manager, desired))
            async with running(worker, told.peers.port) as heard:
                heard.peers.connect((), (HERE,))
                await until(lambda: heard.heard == [desired], "the state")
                await stack.aclose()
                old = replace(state("one"), old=True)
                await until(lambda: heard.heard == [desired, old], "the task to live on")

    run(scenario())


def test_what_managers_told_is_old_while_none_is_there(manager: Path, worker: Path) -> None:
    old = replace(state("one"), old=True)

    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard == [state("one")], "the state")
            heard.peers.connect(())
            await until(lambda: heard.heard == [state("one"), old], "its age")
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard == [state("one"), old, state("one")], "the same state")

    run(scenario())


def test_who_has_heard_no_manager_has_heard_nothing_old(worker: Path) -> None:
    async def scenario() -> None:
        async with running(worker, 1) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.peers.problem, "the problem")
            await asyncio.sleep(0.1)
            assert not heard.heard

    run(scenario())


def test_what_was_forgotten_without_managers_is_heard_again(manager: Path, worker: Path) -> None:
    desired = Desired(state("one").services, (), frozenset({"t"}))

    async def scenario() -> None:
        async with telling(manager, desired) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard == [desired], "the state")
            heard.peers.connect((), ("127.0.0.2",))
            await until(lambda: len(heard.heard) == 2, "the task to live on")
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard[-1] == desired, "the same state")

    run(scenario())


def test_nothing_is_left_behind(manager: Path, worker: Path) -> None:
    async def scenario() -> None:
        async with telling(manager, state("one")) as told, running(worker, told.peers.port) as heard:
            heard.peers.connect((), (HERE,))
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
            heard.peers.connect((), (HERE,))
            await until(lambda: heard.heard, "the state")
            heard.peers.connect(())
            await until(lambda: not told.peers.counters.clients, "the end")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
