"""The supervisor with a plane and a source of paper: what it does, and what it does when they fail."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import ports
import pytest

from meshlb import process
from meshlb.config import Config
from meshlb.counts import Statistics
from meshlb.errors import ConfigError, EngineError, PortError
from meshlb.life import run
from meshlb.model import Counters, Port, PortState, PortStatus, Service, Snapshot, SourceStatus, Task
from meshlb.orderbook import OrderBook
from meshlb.orders import MISSING
from meshlb.ports.inherited import Named
from meshlb.process import Signals
from meshlb.records import Ended
from meshlb.serving import CALM, FAILED, STILL_FAILED, Serving, pause
from meshlb.table import Table

LOOPS = ["asyncio", "uvloop"]


def snapshot(*ports: int, problems: tuple[str, ...] = ()) -> Snapshot:
    services = (Service(str(p), f"s{p}", (Port(p, 1),), (Task("t", "t", "10.0.0.1"),)) for p in ports)
    return Snapshot(tuple(services), problems=problems)


class Plane:
    """Remembers what it was told; says loudly when two calls overlap."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.tables: list[Table] = []
        self.failed: dict[int, str] = {}  # ports that cannot be served, and why
        self.broken: Exception | None = None
        self.counts = Counters()
        self.slowness = 0.0
        self._busy = threading.Lock()

    def _called(self, name: str) -> None:
        assert self._busy.acquire(blocking=False), f"{name} overlaps another call"
        time.sleep(self.slowness)
        self.calls.append(name)
        self._busy.release()
        if self.broken and name in ("apply", "recheck"):
            raise self.broken

    def start(self) -> None:
        self._called("start")

    def ended(self) -> tuple[list[Ended], int]:
        return [], 0

    def apply(self, table: Table) -> tuple[PortStatus, ...]:
        self._called("apply")
        self.tables.append(table)
        return self.statuses()

    def recheck(self) -> tuple[PortStatus, ...]:
        self._called("recheck")
        return self.statuses()

    def statuses(self) -> tuple[PortStatus, ...]:
        return tuple(
            PortStatus(
                entry.port,
                entry.service,
                PortState.FAILED if entry.port.published in self.failed else PortState.SERVING,
                self.failed.get(entry.port.published, ""),
            )
            for entry in self.tables[-1].entries
        )

    def problem(self) -> str:
        return ""

    def counters(self) -> Counters:
        self._called("counters")
        return self.counts

    def statistics(self) -> Statistics:
        self._called("statistics")
        return Statistics((), bytearray(), (), bytearray())

    def kept(self) -> tuple[Named, ...]:
        self._called("kept")
        return ()

    def release(self) -> None:
        self._called("release")

    def resume(self) -> None:
        self._called("resume")

    def leave(self) -> None:
        self._called("leave")

    def close_listeners(self) -> None:
        self._called("close_listeners")

    def stop(self) -> None:
        self._called("stop")

    def served(self) -> list[int]:
        return [entry.port.published for entry in self.tables[-1].entries] if self.tables else []


class Source:
    """Tells what it is given; an exception is raised as if it came from within."""

    def __init__(self, *first: Snapshot | Exception) -> None:
        self.queue: asyncio.Queue[Snapshot | Exception] = asyncio.Queue()
        self.reloads = 0
        self.reload_error: Exception | None = None
        self.connected = True
        for item in first:
            self.queue.put_nowait(item)

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        while True:
            item = await self.queue.get()
            if isinstance(item, Exception):
                raise item
            yield item

    def status(self) -> SourceStatus:
        return SourceStatus("static", self.connected, "" if self.connected else "no file")

    async def reload(self) -> None:
        self.reloads += 1
        if self.reload_error:
            raise self.reload_error


class Agent:
    """A running agent and the handles on its world."""

    def __init__(self, *first: Snapshot | Exception, drain: float = 0.0) -> None:
        self.plane, self.source, self.signals = Plane(), Source(*first), Signals()
        self.http = f"127.0.0.1:{ports.free()}"
        self.config = Config(http=self.http, drain=drain)

    async def until(self, predicate: Callable[[], object]) -> None:
        while not predicate():  # noqa: ASYNC110  # bounded by the timeout in `lives`
            await asyncio.sleep(0.002)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        url = f"http://{self.http}{path}"
        async with aiohttp.ClientSession() as session:
            while True:  # bounded by the timeout in `lives`
                try:
                    async with session.get(url) as response:
                        return response.status, json.loads(await response.text())
                except aiohttp.ClientConnectorError:  # not listening yet
                    await asyncio.sleep(0.002)

    async def status(self, predicate: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first /api/v1/status that is as the predicate wants it."""
        while not predicate(status := (await self.get("/api/v1/status"))[1]):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        return status


def lives(scenario: Callable[[], Awaitable[None]], loop: str = "asyncio") -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    with asyncio.Runner(loop_factory=process.loop_factory(loop)) as runner:
        runner.run(bounded())


async def during(agent: Agent, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run the agent while the scenario lasts, then end it as SIGTERM does."""
    async with asyncio.TaskGroup() as group:
        group.create_task(run(agent.config, agent.source, agent.plane, agent.signals))
        await scenario()
        agent.signals.terminate()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_whole_life(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        agent = Agent(snapshot(80))

        async def scenario() -> None:
            await agent.until(lambda: agent.plane.served() == [80])
            agent.plane.failed[81] = "port 81/tcp is held by nginx; stop it"
            agent.source.queue.put_nowait(snapshot(80, 81, problems=("careful",)))
            await agent.until(lambda: agent.plane.served() == [80, 81])
            status = await agent.status(lambda status: status["problems"])
            assert [(port["port"], port["state"]) for port in status["ports"]] == [
                ("80/tcp", "serving"),
                ("81/tcp", "failed"),
            ]
            assert status["ports"][1]["reason"] == "port 81/tcp is held by nginx; stop it"
            assert status["problems"] == ["careful"]
            assert (await agent.get("/healthz"))[0] == 200
            agent.source.queue.put_nowait(snapshot(80))
            await agent.until(lambda: agent.plane.served() == [80])

        await during(agent, scenario)
        assert agent.plane.calls[0] == "start"
        assert agent.plane.calls[-3:] == ["close_listeners", "counters", "stop"]

    lives(main, loop)
    assert "port 80/tcp of service s80: serving, 1 backend" in caplog.text
    assert "failed: port 81/tcp is held by nginx; stop it" in caplog.text
    assert caplog.text.count("careful") == 2  # came, and went
    assert "meshlb-agent ended" in caplog.text


def test_only_the_newest_snapshot_is_applied() -> None:
    async def main() -> None:
        agent = Agent()
        agent.plane.slowness = 0.05

        async def scenario() -> None:
            for port in range(1, 200):
                agent.source.queue.put_nowait(snapshot(port))
                await asyncio.sleep(0.001)
            await agent.until(lambda: agent.plane.served() == [199])

        await during(agent, scenario)
        assert len(agent.plane.tables) < 100

    lives(main)


def test_a_port_that_failed_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlb.serving.FAILED", 0.01)

    async def main() -> None:
        agent = Agent(snapshot(80))
        agent.plane.failed[80] = "held"

        async def scenario() -> None:
            await agent.until(lambda: agent.plane.calls.count("recheck") > 2)
            assert (await agent.get("/api/v1/status"))[1]["ports"][0]["state"] == "failed"
            agent.plane.failed.clear()
            await agent.status(lambda status: status["ports"][0]["state"] == "serving")

        await during(agent, scenario)

    lives(main)


@pytest.mark.parametrize("error", [PortError("no namespace; start Docker"), TypeError("odd")])
def test_a_plane_that_fails_is_told_and_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("meshlb.serving.pause", lambda *_: 0.01)

    async def main() -> None:
        agent = Agent(snapshot(80))

        async def scenario() -> None:
            await agent.until(lambda: agent.plane.served() == [80])
            agent.plane.broken = error
            agent.source.queue.put_nowait(snapshot(81))
            status = await agent.status(lambda status: status["problems"])
            assert str(error) in status["problems"][0]
            agent.plane.broken = None
            await agent.until(lambda: agent.plane.served() == [81])
            await agent.status(lambda status: not status["problems"])

        await during(agent, scenario)

    lives(main)
    assert ("Traceback" in caplog.text) == isinstance(error, TypeError)


@pytest.mark.parametrize("error", [EngineError("the engine is odd"), ValueError("odd")])
def test_a_source_that_breaks_is_started_again_and_the_table_stays(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        agent = Agent(snapshot(80), error)

        async def scenario() -> None:
            status = await agent.status(lambda status: status["problems"])
            assert str(error) in status["problems"][0]
            await agent.until(lambda: agent.plane.served() == [80])
            agent.source.queue.put_nowait(snapshot(81))
            await agent.until(lambda: agent.plane.served() == [81])
            assert (await agent.get("/api/v1/status"))[1]["problems"] == []

        await during(agent, scenario)

    lives(main)
    assert ("Traceback" in caplog.text) == isinstance(error, ValueError)


@pytest.mark.parametrize("error", [None, ConfigError("bad file"), ValueError("bug")])
def test_sighup_reloads_and_a_failure_is_only_told(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        agent = Agent(snapshot(80))
        agent.source.reload_error = error

        async def scenario() -> None:
            agent.signals.reload.set()
            await agent.until(lambda: agent.source.reloads == 1)
            agent.signals.reload.set()
            await agent.until(lambda: agent.source.reloads == 2)
            agent.source.queue.put_nowait(snapshot(81))
            await agent.until(lambda: agent.plane.served() == [81])

        await during(agent, scenario)

    lives(main)
    assert not error or str(error) in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
def test_a_drain_waits_for_the_open_connections(loop: str) -> None:
    async def main() -> None:
        agent = Agent(snapshot(80), drain=20.0)
        agent.plane.counts = Counters(accepted=3, closed=1)

        async def scenario() -> None:
            await agent.until(lambda: agent.plane.served() == [80])
            agent.signals.terminate()
            await agent.status(lambda status: status["draining"])
            assert (await agent.get("/healthz"))[0] == 503
            assert "close_listeners" in agent.plane.calls
            agent.source.queue.put_nowait(snapshot(80, 81))  # would open a listener again
            await asyncio.sleep(0.05)
            assert "stop" not in agent.plane.calls
            assert agent.plane.served() == [80]
            agent.plane.counts = Counters(accepted=3, closed=3)
            await agent.until(lambda: "stop" in agent.plane.calls)

        async with asyncio.TaskGroup() as group:
            group.create_task(run(agent.config, agent.source, agent.plane, agent.signals))
            await scenario()

    lives(main, loop)


@pytest.mark.parametrize("patience", ["second signal", "seconds"])
def test_a_drain_ends_with_the_patience(patience: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        agent = Agent(snapshot(80), drain=3600.0 if patience == "second signal" else 0.2)
        agent.plane.counts = Counters(accepted=3, closed=1)

        async def scenario() -> None:
            agent.signals.terminate()
            await agent.until(lambda: "close_listeners" in agent.plane.calls)

        await during(agent, scenario) if patience == "second signal" else await run_through(agent)
        assert agent.plane.calls[-1] == "stop"

    async def run_through(agent: Agent) -> None:
        agent.signals.terminate()
        await run(agent.config, agent.source, agent.plane, agent.signals)

    lives(main)
    assert "2 connections are cut" in caplog.text


def test_nothing_told_yet_is_not_healthy() -> None:
    async def main() -> None:
        agent = Agent()
        agent.source.connected = False

        async def scenario() -> None:
            await agent.until(lambda: "start" in agent.plane.calls)
            code, body = await agent.get("/healthz")
            assert (code, body["reason"]) == (503, "no file")

        await during(agent, scenario)

    lives(main)


def test_a_plane_that_does_not_start_ends_the_agent() -> None:
    async def main() -> None:
        agent = Agent()

        def start() -> None:
            raise PortError("no threads left; raise the limit")

        agent.plane.start = start  # type: ignore[method-assign]
        with pytest.raises(PortError, match="no threads left"):
            await run(agent.config, agent.source, agent.plane, agent.signals)

    lives(main)


def test_a_busy_plane_does_not_keep_status_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        plane = Plane()
        async with Serving(plane) as serving:
            plane.slowness = 1.5
            status = await serving.status(SourceStatus("static", True))
            assert status.counters == Counters()
            plane.slowness = 0.0

    lives(main)
    assert "the plane has been busy for a second" in caplog.text


def test_orders_on_disk_are_the_next_agents_after_a_handover() -> None:
    """Of a task that has gone the one before forgets its order; the new one may have got others since."""

    kept = list[Mapping[str, str]]()

    class Book(OrderBook):
        def keep(self, orders: Mapping[str, str]) -> str:
            kept.append(orders)
            return ""

    async def main() -> None:
        async with Serving(Plane(), Book()) as serving:
            serving.orders.adopt({"t": "drained"}, time.monotonic() - 2 * MISSING)
            serving.offer(Snapshot())
            await serving._look()
            await serving._keep_orders()
            assert kept == [{}]
            await serving.leave()
            serving.orders.adopt({"u": "paused"}, time.monotonic())
            await serving._keep_orders()
            assert kept == [{}]

    lives(main)


def test_pauses_follow_changes_and_failures_and_are_bounded() -> None:
    assert pause(0, False, 0) == 1
    assert pause(1, False, 0) == 2
    assert pause(4, False, 0) == 6
    assert pause(11, False, 0) == CALM
    assert pause(11, True, 0) == FAILED
    assert pause(0.5, True, 0) == 0.5
    assert pause(50, True, 0) == 5
    assert pause(3600, True, 0) == STILL_FAILED
    assert [pause(0, False, failures) for failures in (1, 2, 3, 10)] == [2, 4, 8, CALM]


def test_a_part_that_dies_of_a_bug_ends_the_agent_and_the_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dies(_serving: Serving) -> None:
        raise LookupError("bug")

    async def main() -> None:
        monkeypatch.setattr(Serving, "run", dies)
        agent = Agent(snapshot(80))
        with pytest.raises(ExceptionGroup):
            await run(agent.config, agent.source, agent.plane, agent.signals)
        assert agent.plane.calls[-1] == "stop"

    lives(main)


def test_connections_whose_lines_nobody_reads_are_counted_as_missing_in_the_log() -> None:
    class Lossy(Plane):
        def ended(self) -> tuple[list[Ended], int]:
            return [], 2

    async def run() -> int:
        async with Serving(Lossy(), write_ended=lambda ended, lost, nodes: 3) as serving:
            pass
        return serving._unlogged

    assert asyncio.run(run()) == 5
