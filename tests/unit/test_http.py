"""The HTTP server over real sockets: what it says, and what it does not put up with."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import aiohttp
import pytest
from mesh import Mesh

from meshlb.counts import Statistics
from meshlb.errors import ConfigError
from meshlb.http import door
from meshlb.http import server as http
from meshlb.model import (
    BackendState,
    Counters,
    Node,
    Port,
    PortState,
    PortStatus,
    Service,
    Snapshot,
    SourceStatus,
    Status,
    Task,
)
from meshlb.table import Backend

PORT = Port(80, 8000)
SERVING = PortStatus(PORT, "web", PortState.SERVING)
FAILED = PortStatus(Port(81, 8000), "web", PortState.FAILED, "port 81/tcp is held by nginx")
WEB = Service(
    "id1",
    "web",
    (PORT,),
    (
        Task("t1", "web.1", "10.0.0.2", "192.0.2.1", weight=3),
        Task("t2", "web.2", "::1", "", 9, BackendState.DRAINING),
    ),
    (("secret.token", "hunter2"),),
)
CONNECTED = SourceStatus("swarm", connected=True, node="n1", cluster="c1")
AWAY = SourceStatus("swarm", connected=False, problem="the Docker Engine does not answer; start it")
WHOLE = Status(
    "0.1.0",
    CONNECTED,
    Snapshot((WEB,), (Node("n1", "one", "192.0.2.1", (("secret.token", "hunter2"),)),)),
    (SERVING, FAILED),
    Counters(5, 3, 1, 2, 10, 20),
    ("service web: something",),
)


def serving(
    status: Status | Callable[[], Awaitable[Status]],
    scenario: Callable[[str], Awaitable[None]],
    address: str = "127.0.0.1:0",
) -> None:
    async def ask() -> Status:
        return status if isinstance(status, Status) else await status()

    async def run() -> None:
        async with asyncio.timeout(30), http.serve(address, ask) as url:
            await scenario(url)

    asyncio.run(run())


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    made = Mesh()
    yield made
    made.close()


def test_counts_are_those_of_the_plane(mesh: Mesh) -> None:
    async def statistics() -> Statistics:
        return mesh.plane.statistics()

    async def ask() -> Status:
        return WHOLE

    async def run() -> None:
        async with asyncio.timeout(30), http.serve("127.0.0.1:0", ask, None, statistics) as url:
            status, text = await get(f"{url}api/v1/counts" if url.endswith("/") else f"{url}/api/v1/counts")
            found = json.loads(text)
            (backend,) = found["backends"]
            assert status == 200
            assert (backend["address"], backend["backend_port"], backend["active"]) == ("127.0.0.1", 9, 0)
            assert [port["open"] for port in found["ports"]] == [0]
            assert not {"connect", "first_byte", "duration"} & set(backend)

    mesh.serve(Backend("127.0.0.1", 9, "t", "web.1", "n", BackendState.UP))
    asyncio.run(run())


def test_where_nothing_is_counted_there_is_no_such_page() -> None:
    async def scenario(url: str) -> None:
        assert (await get(f"{url.rstrip('/')}/api/v1/counts"))[0] == 404

    serving(WHOLE, scenario)


async def get(url: str, method: str = "GET", **options: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=options) as response:
        return response.status, await response.text()


def body_of(status: Status, path: str, expected: int = 200) -> dict[str, object]:
    bodies: list[dict[str, object]] = []

    async def scenario(url: str) -> None:
        code, text = await get(url + path)
        assert code == expected
        bodies.append(json.loads(text))

    serving(status, scenario)
    return bodies[0]


def test_status_says_everything_but_the_labels() -> None:
    assert body_of(WHOLE, "/api/v1/status") == {
        "api": 1,
        "channel": None,
        "version": "0.1.0",
        "draining": False,
        "source": {"kind": "swarm", "connected": True, "problem": "", "node": "n1", "cluster": "c1"},
        "ports": [
            {"port": "80/tcp", "service": "web", "state": "serving", "reason": ""},
            {"port": "81/tcp", "service": "web", "state": "failed", "reason": "port 81/tcp is held by nginx"},
        ],
        "services": [
            {
                "id": "id1",
                "name": "web",
                "ports": [
                    {
                        "port": "80/tcp",
                        "backends": [
                            {
                                "address": "10.0.0.2",
                                "port": 8000,
                                "task": "t1",
                                "name": "web.1",
                                "node": "192.0.2.1",
                                "state": "up",
                                "weight": 3,
                            },
                            {
                                "address": "::1",
                                "port": 9,
                                "task": "t2",
                                "name": "web.2",
                                "node": "",
                                "state": "draining",
                                "weight": 1,
                            },
                        ],
                    }
                ],
            }
        ],
        "nodes": [{"id": "n1", "name": "one", "address": "192.0.2.1", "self": True, "state": "up"}],
        "counters": {
            "accepted": 5,
            "closed": 3,
            "failed": 1,
            "failovers": 2,
            "received": 10,
            "sent": 20,
            "open": 2,
        },
        "problems": ["service web: something"],
    }


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (WHOLE, 200, ""),
        (Status("0", CONNECTED), 200, ""),  # a Swarm that publishes nothing
        (Status("0", AWAY, ports=(SERVING,)), 200, ""),  # the last table is still served
        (Status("0", AWAY), 503, "the Docker Engine does not answer; start it"),
        (Status("0", SourceStatus("swarm", False)), 503, "the swarm source has not told anything yet"),
        (Status("0", CONNECTED, ports=(SERVING,), draining=True), 503, "draining: the agent is ending"),
    ],
)
def test_healthz_is_whether_this_node_works(status: Status, code: int, reason: str) -> None:
    body = body_of(status, "/healthz", code)
    assert body["status"] == ("ok" if code == 200 else "unavailable")
    assert str(body["reason"]).startswith(reason)
    assert bool(body["reason"]) == bool(reason)


def test_healthz_names_failed_ports_and_problems() -> None:
    body = body_of(WHOLE, "/healthz")
    assert body["failed"] == [
        {"port": "81/tcp", "service": "web", "state": "failed", "reason": "port 81/tcp is held by nginx"}
    ]
    assert body["problems"] == ["service web: something"]
    assert body_of(Status("0", AWAY), "/healthz", 503)["problems"] == [AWAY.problem]


def test_only_get_is_answered_and_only_where_something_is() -> None:
    async def scenario(url: str) -> None:
        for path in ("/nothing", "/status", "/page/", "/page/nothing", "/page/..%2fhttp.py"):
            assert (await get(url + path))[0] == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert (await get(url + "/api/v1/status", method))[0] == 405
        assert (await get(url + "/?" + "x" * 5000))[0] == 400
        assert (await get(url, header="x" * 20_000))[0] == 400
        assert (await get(url, **{f"header-{number}": "x" for number in range(100)}))[0] == 400

    serving(WHOLE, scenario)


def test_cookies_of_services_at_the_same_host_do_no_harm() -> None:
    async def scenario(url: str) -> None:
        assert (await get(url, cookie="x" * 16_000))[0] == 200

    serving(WHOLE, scenario)


def test_an_answer_closes_its_connection() -> None:
    async def scenario(url: str) -> None:
        reader, writer = await connect(url)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()  # until the end
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Server: meshlb/" in answer
        assert b"Python" not in answer
        writer.close()

    serving(WHOLE, scenario)


async def connect(url: str, limit: int = 2**16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host, int(port), limit=limit)


def test_a_crowd_is_refused_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 3)

    async def scenario(url: str) -> None:
        crowd = [await connect(url) for _ in range(3)]
        await asyncio.sleep(0.05)
        reader, writer = await connect(url)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        for _, one in (*crowd, (reader, writer)):
            one.close()
            await one.wait_closed()
        while (await get(url + "/healthz"))[0] != 200:  # noqa: ASYNC110  # bounded by the timeout in run
            await asyncio.sleep(0.01)

    serving(WHOLE, scenario)


def test_who_never_asks_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LIFETIME", 0.05)

    async def scenario(url: str) -> None:
        reader, writer = await connect(url)
        writer.write(b"GET /api/v1/status HTTP/1.1\r\nX: ")
        assert await reader.read() == b""
        writer.close()

    serving(WHOLE, scenario)


def test_who_does_not_read_an_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LIFETIME", 0.2)
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 1)
    large = replace(WHOLE, version="x" * 30_000_000)  # more than kernels keep

    async def scenario(url: str) -> None:
        reader, writer = await connect(url, limit=1)
        writer.write(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.read(1)
        code = 503
        while code != 200:  # bounded by the timeout in run
            with suppress(aiohttp.ClientError):
                code = (await get(url))[0]
        writer.close()

    serving(large, scenario)


def test_a_bug_in_a_page_is_an_error_and_the_server_lives(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> Status:
        raise RuntimeError("bug")

    async def scenario(url: str) -> None:
        assert (await get(url + "/api/v1/status"))[0] == 500
        assert (await get(url))[0] == 200

    serving(broken, scenario)
    assert "bug" in caplog.text


def test_off_means_off() -> None:
    async def scenario(url: str) -> None:
        assert url == ""

    serving(WHOLE, scenario, "")


def test_ipv6_is_an_address_too() -> None:
    async def scenario(url: str) -> None:
        assert url.startswith("http://[::1]:")
        assert (await get(url))[0] == 200

    serving(WHOLE, scenario, "[::1]:0")


async def nothing(_url: str) -> None:
    raise AssertionError("the server must not start")


def test_a_held_address_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        sentence = f"--http {address}: cannot listen: another process (a second meshlb-agent?) listens there"
        with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
            serving(WHOLE, nothing, address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.1:80", "this machine has no such address"),
        ("no.such.name.invalid:80", '"no.such.name.invalid" is not an address of this machine'),
    ],
)
def test_a_foreign_address_is_one_sentence(address: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        serving(WHOLE, nothing, address)


def test_a_failure_in_the_block_is_passed_on_as_it_is() -> None:
    async def scenario(_url: str) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        serving(WHOLE, scenario)
