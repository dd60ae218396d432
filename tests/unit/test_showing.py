"""What an agent counts is shown while somebody looks, and made for nobody otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from made_up import MadeUp

from meshlb import showing, thrift
from meshlb.counts import Statistics
from meshlb.elsewhere import Elsewhere
from meshlb.peers import shown
from meshlb.timeline import News, Timeline

Scenario = Callable[[Elsewhere, "list[tuple[str, Mapping[str, Any]]]"], Awaitable[None]]


def test_limits_are_those_of_the_channel() -> None:
    assert (showing.MOST_BACKENDS, showing.MOST_EVENTS) == (shown.MAX_BACKENDS, shown.MAX_EVENTS)


def played(statistics: showing.AskStatistics, timeline: Timeline, scenario: Scenario) -> None:
    async def run() -> None:
        told: list[tuple[str, Mapping[str, Any]]] = []
        elsewhere = Elsewhere()
        elsewhere.join(lambda on: None, lambda kind, at, document: told.append((kind, document)))
        task = asyncio.create_task(showing.show(statistics, timeline, elsewhere))
        async with asyncio.timeout(30):
            await scenario(elsewhere, told)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())


async def until(predicate: Callable[[], object]) -> None:
    while not predicate():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_counts_come_again_and_events_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "EVERY", 0.05)
    monkeypatch.setattr(thrift, "SHARE", 1)
    mesh, timeline = MadeUp({"web": 2}), Timeline()
    timeline.tell([News("task-up", "web.1 is up")])

    async def scenario(elsewhere: Elsewhere, told: list[tuple[str, Mapping[str, Any]]]) -> None:
        await asyncio.sleep(0.1)
        assert told == []
        elsewhere.watch(True)
        await until(lambda: len(told) >= 4)
        kinds = [kind for kind, _ in told]
        assert kinds[:4] == ["counts", "events", "counts", "counts"]
        newest = told[3][1]
        assert newest["backends"]["task"] == ["t0.1", "t0.2"]
        assert newest["backends"]["connect_buckets"][0][:2] == (2, 10)
        for kind, document in told:  # another agent understands it
            shown.decode(shown.encode(kind, 1.0, document))
        timeline.tell([News("task-down", "web.1 is down")])
        await until(lambda: [kind for kind, _ in told].count("events") == 2)
        assert [one["text"] for _, each in told for one in each.get("events", ())][-1] == "web.1 is down"
        elsewhere.watch(False)
        await asyncio.sleep(0.1)
        before = len(told)
        await asyncio.sleep(0.15)
        assert len(told) == before

    played(mesh.statistics, timeline, scenario)


def test_a_failure_is_survived(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(showing, "EVERY", 0.01)
    mesh, failures = MadeUp({"web": 1}), [TimeoutError(), RuntimeError("a bug")]

    async def statistics() -> Statistics:
        if failures:
            raise failures.pop()
        return await mesh.statistics()

    async def scenario(elsewhere: Elsewhere, told: list[tuple[str, Mapping[str, Any]]]) -> None:
        elsewhere.watch(True)
        await until(lambda: told)

    played(statistics, Timeline(), scenario)
    assert "a bug" in caplog.text


def test_a_busy_plane_is_asked_again_soon() -> None:
    mesh, slow = MadeUp({"web": 1}), [1.0]

    async def statistics() -> Statistics:
        await asyncio.sleep(slow.pop() if slow else 0)
        return await mesh.statistics()

    async def scenario(elsewhere: Elsewhere, told: list[tuple[str, Mapping[str, Any]]]) -> None:
        elsewhere.watch(True)
        async with asyncio.timeout(12):  # twenty times as long would be more
            await until(lambda: len(told) >= 3)

    played(statistics, Timeline(), scenario)


def test_who_has_nothing_to_do_is_left_out_and_of_many_the_least_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(showing, "MOST_BACKENDS", 2)
    mesh = MadeUp({"web": 4})  # each is chosen more often than the one before

    async def scenario(elsewhere: Elsewhere, told: list[tuple[str, Mapping[str, Any]]]) -> None:
        elsewhere.watch(True)
        await until(lambda: told)
        assert set(told[0][1]["backends"]["task"]) == {"t0.3", "t0.4"}

    played(mesh.statistics, Timeline(), scenario)
