"""What programs and the page hear at /api/v1/events, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from made_up import HOSTILE, MadeUp

from meshlb import thrift
from meshlb.counts import Statistics
from meshlb.elsewhere import STALE, Elsewhere
from meshlb.http import door, live
from meshlb.http import events as http_events
from meshlb.http import server as http
from meshlb.model import BackendState, ChannelStatus, Port, Status
from meshlb.timeline import News, Timeline

Told = AsyncIterator[tuple[str, Any]]


async def messages(response: aiohttp.ClientResponse) -> Told:
    kind = ""
    async for line in response.content:
        name, _, value = line.decode("ascii").strip().partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


async def first(told: Told, kind: str, wanted: Callable[[Any], bool] = lambda _: True) -> Any:
    """The first message of this kind that is as wanted; others are passed over."""
    async for found, document in told:
        if found == kind and wanted(document):
            return document
    raise AssertionError("the stream ended")


@asynccontextmanager
async def hearing(url: str) -> AsyncIterator[Told]:
    # A line may be long.
    async with (
        aiohttp.ClientSession(read_bufsize=2**24) as session,
        session.get(f"{url}/api/v1/events") as response,
    ):
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield messages(response)


def served(
    mesh: MadeUp,
    scenario: Callable[[str, Timeline], Awaitable[None]],
    listener: socket.socket | None = None,
) -> None:
    timeline, sockets = Timeline(), [listener] if listener else None

    async def run() -> None:
        async with (
            asyncio.timeout(60),
            http.serve("127.0.0.1:0", mesh.ask, sockets, mesh.statistics, timeline) as url,
        ):
            await scenario(url, timeline)

    asyncio.run(run())


def test_who_listens_hears_all_and_then_what_is_new() -> None:
    mesh = MadeUp({"web": 2, HOSTILE: 1})

    async def scenario(url: str, timeline: Timeline) -> None:
        timeline.tell([News("problem", HOSTILE, {"service": HOSTILE})])
        async with hearing(url) as told:
            status = await first(told, "status")
            assert status["api"] == 1
            assert {one["name"] for one in status["services"]} == {"web", HOSTILE}
            assert (await first(told, "events"))[0]["text"] == HOSTILE
            counts = await first(told, "counts")
            assert counts["backends"]["task"] == ["t0.1", "t0.2", "t1.1"]
            more = await first(told, "counts")
            assert more["ports"]["accepted"][0] > counts["ports"]["accepted"][0]
            assert more["ports"]["connect"][0][0] > 0
            mesh.set_state("t0.1", BackendState.DOWN)
            timeline.tell([News("task-down", "web.1 is down", {"task": "t0.1"})])
            changed = await first(told, "status")
            assert [one["state"] for one in changed["services"][0]["ports"][0]["backends"]] == ["down", "up"]
        async with hearing(url) as told:
            events = await first(told, "events")
            assert [one["id"] for one in events] == [1, 2]
            assert events[1]["task"] == "t0.1"

    served(mesh, scenario)


def test_nothing_new_is_not_told_again() -> None:
    mesh = MadeUp({"web": 1})
    channel = mesh.status.source.channel
    assert channel is not None

    async def scenario(url: str, _timeline: Timeline) -> None:
        async with hearing(url) as told:
            await first(told, "status")
            heard = replace(channel, heard=99)
            mesh.status = replace(mesh.status, source=replace(mesh.status.source, channel=heard))
            kinds = [(await anext(told))[0] for _ in range(2)]
            assert kinds == ["counts", "counts"]

    served(mesh, scenario)


def test_silent_nodes_and_failovers_come_into_the_timeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "COUNTS", 0.0)
    mesh = MadeUp({"web": 1})
    silent = ChannelStatus(2, 1, suspected=("192.0.2.2",))

    async def scenario(url: str, _timeline: Timeline) -> None:
        mesh.status = replace(mesh.status, source=replace(mesh.status.source, channel=silent))
        async with hearing(url) as told:
            both: set[str] = set()
            while both != {"node-suspected", "failover"}:
                both |= {one["kind"] for one in await first(told, "events")}
        async with hearing(url) as told:
            nodes = (await first(told, "status"))["nodes"]
            assert [(one["state"], one["self"]) for one in nodes] == [
                ("up", True),
                ("suspected", False),
                ("up", False),
            ]

    served(mesh, scenario)


def test_failovers_of_a_port_that_is_closed_and_served_again_are_told() -> None:
    mesh, timeline = MadeUp({"web": 1}), Timeline()
    whole, none, failed_over = mesh.status, replace(mesh.status, ports=()), 5  # looks until there is one
    looks = live.Live(mesh.ask, mesh.statistics, timeline)

    async def run() -> None:
        for mesh.status, mesh._looks in ((whole, failed_over), (none, 0), (whole, failed_over)):
            await looks.look()
            if mesh.status is whole:
                looks._told_at -= live.FAILOVERS

    asyncio.run(run())
    assert [event.news.kind for event in timeline.since(0)] == ["failover", "failover"]


def test_failovers_of_a_port_that_leads_to_another_target_are_told_once() -> None:
    mesh, timeline = MadeUp({"web": 1}), Timeline()
    looks = live.Live(mesh.ask, mesh.statistics, timeline)

    async def run() -> None:
        for target, mesh._looks in ((80, 5), (81, 10)):  # looks until there is one failover, and two
            mesh.publish("web", Port(8000, target))
            await looks.look()
            looks._told_at -= live.FAILOVERS

    asyncio.run(run())
    told = "1 attempt went on to another task: web 8000/tcp 1"
    assert [event.news.text for event in timeline.since(0)] == [told, told]


def test_only_so_many_may_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_events, "MOST", 2)

    async def scenario(url: str, _timeline: Timeline) -> None:
        async with hearing(url) as one, hearing(url) as two:
            await first(one, "status")
            await first(two, "status")
            async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v1/events") as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        while True:  # bounded by the timeout: who has gone is noticed with the next message
            async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v1/events") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)

    served(MadeUp({"web": 1}), scenario)


def test_who_does_not_read_is_dropped_and_the_others_hear_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_events, "PATIENCE", 0.3)
    monkeypatch.setattr(live, "COUNTS", 0.0)
    monkeypatch.setattr(live, "WATCHED", 0.01)
    monkeypatch.setattr(thrift, "SHARE", 1)
    mesh = MadeUp({f"service-{at}": 50 for at in range(10)})

    async def scenario(url: str, _timeline: Timeline) -> None:
        host, port = url.removeprefix("http://").split(":")
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))  # the kernel answers, whatever the loop does
        reader, writer = await asyncio.open_connection(sock=client, limit=1024)
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with hearing(url) as told:
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + 1.0:
                await first(told, "counts")
            said = await _end(reader)
            await first(told, "counts")
        assert said < 2**20  # what lay in the kernel's buffers, and then no more
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        served(mesh, scenario, listener)


async def _end(reader: asyncio.StreamReader) -> int:
    """How many bytes there are before the end."""
    count = 0
    with suppress(ConnectionResetError):
        while some := await reader.read(65536):
            count += len(some)
    return count


def test_listeners_outlive_the_time_for_an_answer_and_end_with_the_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "LIFETIME", 0.1)
    mesh = MadeUp({"web": 1})

    async def run() -> None:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            async with http.serve("127.0.0.1:0", mesh.ask, None, mesh.statistics) as url:
                response = await session.get(f"{url}/api/v1/events")
                told = messages(response)
                await first(told, "counts")
                await first(told, "counts")
            assert [kind async for kind, _ in told if kind not in {"counts", "status", "events"}] == []

    asyncio.run(run())


def test_a_bug_in_the_status_ends_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    mesh = MadeUp({"web": 1})
    good = mesh.ask

    async def broken() -> Status:
        mesh.ask = good  # type: ignore[method-assign]
        raise RuntimeError("bug")

    async def ask() -> Status:
        return await mesh.ask()

    mesh.ask = broken  # type: ignore[method-assign]

    async def run() -> None:
        async with (
            asyncio.timeout(60),
            http.serve("127.0.0.1:0", ask, None, mesh.statistics) as url,
            hearing(url) as told,
        ):
            await first(told, "status")

    asyncio.run(run())
    assert "bug" in caplog.text


def test_a_look_that_waits_for_a_busy_plane_is_followed_by_the_next_soon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mesh, slow, busy = MadeUp({"web": 1}), asyncio.Event(), asyncio.Event()

    async def ask() -> Status:
        if slow.is_set():
            slow.clear()
            await asyncio.sleep(1.0)
            busy.set()
        return await mesh.ask()

    async def statistics() -> Statistics:
        if busy.is_set():
            busy.clear()
            raise TimeoutError
        return await mesh.statistics()

    async def run() -> None:
        async with (
            asyncio.timeout(60),
            http.serve("127.0.0.1:0", ask, None, statistics) as url,
            hearing(url) as told,
        ):
            await first(told, "counts")
            slow.set()
            await busy.wait()
            async with asyncio.timeout(12):  # twenty times as long would be more
                await first(told, "counts")

    asyncio.run(run())
    assert not [each for each in caplog.records if each.name.startswith("meshlb")]


def test_another_website_is_refused_everywhere_but_at_the_probe() -> None:
    async def scenario(url: str, _timeline: Timeline) -> None:
        async with aiohttp.ClientSession() as session:
            for path in ("/", "/page/main.js", "/api/v1/status", "/api/v1/counts", "/api/v1/events"):
                for header, value in (("Host", "evil.example"), ("Origin", "http://evil.example")):
                    async with session.get(url + path, headers={header: value}) as answer:
                        assert answer.status == 403, path
                        assert "Access-Control-Allow-Origin" not in answer.headers
            async with session.get(f"{url}/healthz", headers={"Host": "a-balancer"}) as answer:
                assert answer.status == 200

    served(MadeUp({"web": 1}), scenario)


def test_the_page_is_small_and_has_all_its_files_and_a_strict_policy() -> None:
    async def scenario(url: str, _timeline: Timeline) -> None:
        total = 0
        async with aiohttp.ClientSession() as session:
            for path in ("", *(f"page/{name}" for name in ("page.css", "icon.svg", "main.js", "mesh.js"))):
                async with session.get(f"{url}/{path}") as answer:
                    assert answer.status == 200
                    policy = answer.headers["Content-Security-Policy"]
                    assert "default-src 'none'" in policy
                    assert "unsafe" not in policy
                    total += len(await answer.read())
        assert 10_000 < total < 150_000

    served(MadeUp({"web": 1}), scenario)


def test_what_other_agents_tell_is_passed_on_while_somebody_listens() -> None:
    mesh, now, looks = MadeUp({"web": 2}), [100.0], list[bool]()
    elsewhere = Elsewhere(lambda: now[0])
    elsewhere.join(looks.append, lambda kind, at, document: None)
    there = "192.0.2.2"

    async def run() -> None:
        async with (
            asyncio.timeout(60),
            http.serve(
                "127.0.0.1:0", mesh.ask, None, mesh.statistics, Timeline(), elsewhere=elsewhere
            ) as url,
        ):
            elsewhere.take(there, "counts", 5.0, '{"ports":{}}')  # nobody looks
            async with hearing(url) as told:
                await first(told, "counts")
                assert looks == [False, True]
                elsewhere.take(there, "counts", time.time() + 60, json.dumps({"ports": {"port": [HOSTILE]}}))
                elsewhere.take(there, "events", 5.0, '{"events":[]}')
                found = await first(told, "node-counts")
                assert (found["node"], found["ports"]) == (there, {"port": [HOSTILE]})
                assert 50 < found["ahead"] < 70
                assert (await first(told, "node-events"))["events"] == []
                assert (await first(told, "told"))["nodes"] == [there]
                async with hearing(url) as another:
                    assert (await first(another, "node-counts"))["node"] == there
                    assert (await first(another, "told"))["nodes"] == [there]
                now[0] += STALE + 1
                assert (await first(told, "told"))["nodes"] == []
            while looks[-1]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert elsewhere.told() == {}

    asyncio.run(run())


def test_agents_together_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlb.elsewhere.MOST_BYTES", 1000)
    elsewhere = Elsewhere()
    elsewhere.look(True)
    for address in ("192.0.2.2", "192.0.2.3"):
        for _ in range(9):  # what is replaced takes no place
            elsewhere.take(address, "counts", 1.0, json.dumps({"text": "x" * 600}))
    assert list(elsewhere.told()) == [("counts", "192.0.2.2")]
