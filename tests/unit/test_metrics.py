"""/metrics: what was counted, as Prometheus reads it; judged by promtool and by Prometheus' own parsers."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import chain
from pathlib import Path

import aiohttp
import pytest
from cpu_time import cpu_of
from mesh import Mesh, backend
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic
from promtool import promtool

from meshlb.counts import Statistics
from meshlb.http import scrape
from meshlb.http import server as http
from meshlb.metrics import backend as metrics_backend
from meshlb.metrics.exposition import CLASSIC, OPENMETRICS, PROTOBUF, Family, text, wanted
from meshlb.metrics.families import families
from meshlb.metrics.manual import manual
from meshlb.metrics.protobuf import protobuf
from meshlb.metrics.usage import Usage, usage
from meshlb.model import (
    BackendState,
    ChannelStatus,
    Node,
    Port,
    PortState,
    PortStatus,
    Protocol,
    Snapshot,
    SourceStatus,
    Status,
)
from meshlb.table import Backend

Found = dict[tuple[str, frozenset[tuple[str, str]]], float]
TCP, UDP = Port(80, 8000), Port(53, 53, Protocol.UDP)
WEB = {"service": "web", "port": "80", "protocol": "tcp"}
FIRST = WEB | {"task": "web.1.t1", "node": "one"}
CHANNEL = ChannelStatus(2, 1, ("192.0.2.2",), (), 7, 1, 3)
STATUS = Status(
    "0.1.0",
    SourceStatus("swarm", connected=True, channel=CHANNEL),
    Snapshot(nodes=(Node("n1", "one", "192.0.2.1"), Node("n2", "two", "192.0.2.2"))),
    (PortStatus(UDP, "dns", PortState.FAILED, "why"), PortStatus(TCP, "web", PortState.REDIRECTED)),
    problems=("a", "b"),
    table=4,
    table_changed=1000.5,
    unlogged=6,
)
USAGE = Usage(1.5, 4096, 7, 1024, 3, 500.25)


def buckets(*counts: int) -> tuple[int, ...]:
    return counts + (0,) * (24 - len(counts))


def port_row(*numbers: int, connect: tuple[int, ...] = (), seconds: float = 0) -> bytes:
    padded = numbers + (0,) * (14 - len(numbers))
    rest = (0, 0, *buckets()) * 2
    return struct.pack(
        "=14Q" + "2Q24Q" * 3, *padded, round(seconds * 1e6), sum(connect), *buckets(*connect), *rest
    )


def backend_row(*numbers: int, seconds: float = 0) -> bytes:
    padded = numbers + (0,) * (11 - len(numbers))
    times = ((round(seconds * 1e6 * part), padded[2] * part, *buckets()) for part in (1, 2, 3))
    return struct.pack("=9Q2I" + "2Q24Q" * 3, *padded, *chain.from_iterable(times))


def worker_row(turns: int, timed: int, seconds: float) -> bytes:
    return struct.pack("=3Q24Q", turns, round(seconds * 1e6), timed, *buckets(timed))


def task(
    name: str, port: int = 8000, state: BackendState = BackendState.UP, node: str = "192.0.2.1"
) -> Backend:
    return Backend("10.0.0.2", port, name, name, node, state)


def statistics(*backends: tuple[Port, Backend, bytes]) -> Statistics:
    web = port_row(9, 5, 2, 3, 100, 200, 0, 6, 1, 0, 0, 4, connect=(2, 0, 1), seconds=0.0005)
    rows = b"".join(row for _, _, row in backends)
    pairs = tuple((port, of) for port, of, _ in backends)
    workers = bytearray(worker_row(40, 2, 0.001) + worker_row(0, 0, 0))
    return Statistics((UDP, TCP), bytearray(port_row() + web), pairs, bytearray(rows), workers)


COUNTED = statistics(
    (TCP, task("web.1.t1"), backend_row(9, 5, 7, 2, 100, 200, 1, 30, 6, 4, 0, seconds=0.25)),
    (TCP, task("web.2.t2", state=BackendState.DRAINING), backend_row()),
    (TCP, task("web.3.t3"), backend_row(3, 3, 0, 3, 0, 0, 0, 0, 0, 0, 1)),
    (UDP, task("dns.1.t4", 53, node="192.0.2.9"), backend_row(1, 0, 1)),
)


def series(family: Family | Metric) -> int:
    return len(family.samples) + (26 * len(family.histograms) if isinstance(family, Family) else 0)


def found(status: Status = STATUS, counted: Statistics | None = COUNTED) -> Found:
    """Samples by name and labels, the same in both formats."""
    told = families(status, counted, USAGE)
    classic, openmetrics = (
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse(text(told, of))
            for sample in family.samples
        }
        for parse, of in ((parse_classic, False), (parse_openmetrics, True))
    )
    assert classic == openmetrics
    assert len(classic) == sum(map(series, told)), "a series is there twice"
    return classic


def of(samples: Found, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_what_was_counted_of_a_port() -> None:
    samples = found()
    for name, value in {
        "meshlb_connections_total": 9,
        "meshlb_connections_active": 4,
        "meshlb_failovers_total": 2,
        "meshlb_connections_held_total": 3,
        "meshlb_received_bytes_total": 100,
        "meshlb_sent_bytes_total": 200,
        "meshlb_masked_attempts_total": 6,
        "meshlb_port_up": 1,
        "meshlb_port_redirected": 1,
        "meshlb_connect_seconds_count": 3,
        "meshlb_connect_seconds_sum": 0.0005,
    }.items():
        assert of(samples, name, **WEB) == value, name
    assert of(samples, "meshlb_connections_refused_total", **WEB, reason="no_backend") == 1
    assert of(samples, "meshlb_connections_refused_total", **WEB, reason="denied") == 4
    assert of(samples, "meshlb_port_up", service="dns", port="53", protocol="udp") == 0


def test_buckets_are_sums_in_seconds() -> None:
    samples = found()
    bounds = [
        ("6.103515625e-05", 2),
        ("0.0001220703125", 2),
        ("0.000244140625", 3),
        ("256.0", 3),
        ("+Inf", 3),
    ]
    for bound, count in bounds:
        assert of(samples, "meshlb_connect_seconds_bucket", **WEB, le=bound) == count


def test_what_was_counted_of_a_backend() -> None:
    samples = found()
    for name, value in {
        "up": 1,
        "connections_total": 7,
        "connections_active": 4,
        "connect_failures_total": 2,
        "received_bytes_total": 100,
        "sent_bytes_total": 200,
        "retransmitted_segments_total": 6,
        "connect_seconds_count": 7,
        "connect_seconds_sum": 0.25,
        "first_byte_seconds_count": 14,
        "first_byte_seconds_sum": 0.5,
        "connection_duration_seconds_count": 21,
        "connection_duration_seconds_sum": 0.75,
    }.items():
        assert of(samples, f"meshlb_backend_{name}", **FIRST) == value, name
    assert of(samples, "meshlb_backend_up", **FIRST | {"task": "web.2.t2"}) == 0  # it drains
    assert of(samples, "meshlb_backend_up", **FIRST | {"task": "web.3.t3"}) == 0  # it is set aside
    states = {state: of(samples, "meshlb_backends", **WEB, state=state) for state in BackendState}
    assert states == {"up": 2, "suspected": 0, "draining": 1, "drained": 0, "paused": 0, "down": 0}


def test_what_the_agent_says_of_itself_and_of_nodes() -> None:
    samples = found()
    expected: dict[str, float] = {
        "problems": 2,
        "draining": 0,
        "table_changes_total": 4,
        "peers": 2,
        "peers_connected": 1,
    }
    expected |= {
        "access_log_lost_total": 6,
        "table_changed_timestamp_seconds": 1000.5,
        "peer_refusals_total": 3,
        "backends_left_out": 0,
    }
    for name, value in expected.items():
        assert of(samples, f"meshlb_{name}") == value, name
    assert of(samples, "meshlb_source_connected", source="swarm") == 1
    suspected = [of(samples, "meshlb_node_suspected", node=f"{n}", address=a) for n, a in
                 (("one", "192.0.2.1"), ("two", "192.0.2.2"))]  # fmt: skip
    assert suspected == [0, 1]
    assert of(samples, "process_open_fds") == 7
    assert of(samples, "process_start_time_seconds") == 500.25


def test_how_long_turns_of_a_worker_take() -> None:
    samples = found()
    assert [of(samples, "meshlb_worker_turns_total", worker=number) for number in "01"] == [40, 0]
    assert of(samples, "meshlb_worker_turn_seconds_count", worker="0") == 2
    assert of(samples, "meshlb_worker_turn_seconds_sum", worker="0") == 0.001
    assert of(samples, "meshlb_worker_turn_seconds_bucket", worker="0", le="6.103515625e-05") == 2


def test_an_agent_that_knows_nothing_yet_tells_so() -> None:
    samples = found(Status("0", SourceStatus("static", connected=False)), None)
    assert of(samples, "meshlb_source_connected", source="static") == 0
    assert not [name for name, _ in samples if name.startswith(("meshlb_backend_", "meshlb_connections"))]


def test_series_of_what_is_gone_are_gone() -> None:
    later = found(counted=statistics((TCP, task("web.9.new"), backend_row())))
    assert {dict(labels)["task"] for name, labels in later if name.startswith("meshlb_backend_")} == {
        "web.9.new"
    }
    left = found(Status("0", STATUS.source, ports=STATUS.ports[:1]))
    assert {dict(labels)["service"] for _, labels in left if "service" in dict(labels)} == {"dns"}


def test_a_port_has_100_series_and_a_backend_13() -> None:
    samples = found(counted=statistics((TCP, task("web.1.t1"), backend_row())))
    numbers = Counter(("task" in dict(labels)) for _, labels in samples if ("port", "80") in labels)
    assert numbers == {False: 100, True: 13}


def test_there_are_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_backend, "MOST", 3)
    samples = found()
    assert len([name for name, _ in samples if name == "meshlb_backend_up"]) == 3
    assert of(samples, "meshlb_backends_left_out") == 1


HOSTILE = [
    'a"} 1\nfake_total 9',
    "\\",
    '\\"',
    "\n",
    "\udc80\x00",
    "é\u202ex",
    "",
    '{le="+Inf"}',
    ',task="',
    "y" * 5000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_one_value(name: str) -> None:
    status = Status(
        "0",
        STATUS.source,
        Snapshot(nodes=(Node("n", name, "192.0.2.1"), Node("m", name, "192.0.2.2"))),
        (PortStatus(TCP, name, PortState.SERVING),),
    )
    counted = statistics(*((TCP, task(name, port), backend_row()) for port in (1, 2)))
    samples = found(status, counted)
    assert not {each for each, _ in samples if not each.startswith(("meshlb_", "process_"))}
    assert max(len(value) for _, labels in samples for _, value in labels) <= 129
    assert len([each for each, _ in samples if each == "meshlb_backend_up"]) == 2
    promtool("check", "metrics", text=text(families(status, counted, USAGE)))
    assert protobuf(families(status, counted, USAGE))


def test_twins_are_one_series() -> None:
    twin = (TCP, task("web.1.t1"), backend_row())
    assert (
        len([name for name, _ in found(counted=statistics(twin, twin, twin)) if name == "meshlb_backend_up"])
        == 2
    )


def test_promtool_finds_no_fault_with_it() -> None:
    assert promtool("check", "metrics", text=text(families(STATUS, COUNTED, usage()))).strip() == ""


def test_the_manual_is_what_the_agent_tells() -> None:
    path = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert path.read_text() == manual(), "run scripts/reference"
    own = [each for each in families(STATUS, COUNTED, USAGE) if isinstance(each, Family)]
    for family in own:
        for tail in [sample.rpartition(" ")[0] for sample in family.samples] + [
            of for of, _ in family.histograms
        ]:
            inside = tail[tail.find("{") + 1 : -1] if "{" in tail else ""
            names = [pair.partition("=")[0] for pair in inside.split(",") if pair]
            assert [name for name in names if name != "le"] == list(family.labels), family.name


PROMETHEUS = (  # what version 2.42 asks for when it takes native histograms
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", CLASSIC),
        ("*/*", CLASSIC),
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5",
            OPENMETRICS,
        ),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("text/plain,application/openmetrics-text;q=0.2", CLASSIC),
        ("application/openmetrics-text;q=0", CLASSIC),
        ("application/openmetrics-text;q=x", CLASSIC),
        (";;;,,,=", CLASSIC),
        (PROMETHEUS, PROTOBUF),
        ("application/vnd.google.protobuf;q=0.1,text/plain", CLASSIC),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, kind: str) -> None:
    assert wanted(accept) == kind


def serving(
    scenario: Callable[[str], Awaitable[None]],
    status: Status = STATUS,
    counted: Callable[[], Statistics] = lambda: COUNTED,
    address: str = "127.0.0.1:0",
) -> None:
    async def ask() -> Status:
        return status

    async def statistics() -> Statistics:
        return counted()

    async def run() -> None:
        async with asyncio.timeout(30), http.serve(address, ask, None, statistics) as url:
            await scenario(url)

    asyncio.run(run())


async def get(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as session, session.get(url, headers=named) as response:
        return response.status, await response.text(), dict(response.headers)


def test_both_formats_are_served() -> None:
    async def scenario(url: str) -> None:
        code, body, headers = await get(f"{url}/metrics", Accept_Encoding="identity")
        assert (code, headers["Content-Type"]) == (200, CLASSIC)
        assert 'meshlb_connections_total{service="web",port="80",protocol="tcp"} 9\n' in body
        assert "Content-Encoding" not in headers
        code, body, headers = await get(f"{url}/metrics", Accept="application/openmetrics-text")
        assert (code, headers["Content-Type"], headers["Content-Encoding"]) == (200, OPENMETRICS, "gzip")
        assert body.endswith("\n# EOF\n")

    serving(scenario)


def test_protobuf_is_served_to_who_takes_it() -> None:
    async def scenario(url: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/metrics", headers={"Accept": PROMETHEUS}) as response,
        ):
            assert response.headers["Content-Type"] == PROTOBUF
            assert b"meshlb_connections_total" in await response.read()

    serving(scenario)


def test_a_plane_that_is_busy_is_503() -> None:
    def busy() -> Statistics:
        raise TimeoutError

    async def scenario(url: str) -> None:
        assert (await get(f"{url}/metrics"))[:2] == (503, "the plane is busy; ask again\n")
        assert (await get(f"{url}/readyz"))[0] == 200

    serving(scenario, counted=busy)


def test_a_real_plane_is_read() -> None:
    mesh = Mesh()
    try:
        (status,) = mesh.serve(backend(9))
        with mesh.connect() as client:
            client.recv(1)
    except ConnectionResetError:
        pass
    finally:
        counted = mesh.plane.statistics()
        mesh.close()
    samples = found(Status("0", STATUS.source, ports=(status,)), counted)
    port = {"service": "web", "port": str(mesh.port.published), "protocol": "tcp"}
    assert of(samples, "meshlb_connections_total", **port) == 1
    assert of(samples, "meshlb_connections_refused_total", **port, reason="no_backend") == 1
    assert of(samples, "meshlb_backend_connect_failures_total", **port, task="web.9", node="") == 1


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (STATUS, 200, "ok"),
        (Status("0", STATUS.source, table=1), 200, "ok"),  # nothing is published
        (Status("0", STATUS.source), 503, "no table is served yet"),
        (Status("0", STATUS.source, ports=STATUS.ports[:1], table=1), 503, "no port is served"),
        (Status("0", STATUS.source, table=1, draining=True), 503, "draining"),
        (Status("0", SourceStatus("swarm", False, "why")), 503, "why"),
    ],
)
def test_readyz_is_whether_clients_may_come(status: Status, code: int, sentence: str) -> None:
    async def scenario(url: str) -> None:
        got, body, _ = await get(f"{url}/readyz")
        assert got == code
        assert body.startswith(sentence)

    serving(scenario, status)


def test_every_agent_lists_all() -> None:
    async def scenario(url: str) -> None:
        port = url.rpartition(":")[2]
        _, body, headers = await get(f"{url}/sd")
        assert headers["Content-Type"].startswith("application/json")
        assert json.loads(body) == [
            {"targets": [f"192.0.2.1:{port}"], "labels": {"__meta_meshlb_node": "one"}},
            {"targets": [f"[fd00::2]:{port}"], "labels": {"__meta_meshlb_node": "fd00::2"}},
        ]

    nodes = (Node("n1", "one", "192.0.2.1"), Node("n2", "", "fd00::2"))
    serving(scenario, Status("0", STATUS.source, Snapshot(nodes=nodes)))


def test_without_a_swarm_an_agent_lists_itself() -> None:
    async def scenario(url: str) -> None:
        assert json.loads((await get(f"{url}/sd"))[1])[0]["targets"] == [url.removeprefix("http://")]

    serving(scenario, Status("0", SourceStatus("static", connected=True)))


def test_a_crowd_costs_no_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    go_on = threading.Event()

    def body(*_: object) -> bytes:
        threads.append(threading.current_thread())
        go_on.wait(20)
        return b"x"

    monkeypatch.setattr(scrape, "_body", body)

    async def ask() -> Status:
        return STATUS

    async def run() -> None:
        of = scrape.Scrape(ask, None)
        crowd = [asyncio.create_task(of.body(CLASSIC, False)) for _ in range(20)]
        async with asyncio.timeout(20):
            while not threads:  # noqa: ASYNC110  # the loop runs while the text is written: that is the point
                await asyncio.sleep(0.001)
        crowd.pop().cancel()
        go_on.set()
        assert set(await asyncio.gather(*crowd)) == {b"x"}
        assert await of.body(CLASSIC, False) == b"x"

    asyncio.run(run())
    assert len(threads) == 2
    assert threading.main_thread() not in threads


def test_the_usage_is_this_process() -> None:
    with socket.socket():
        more = usage()
    less = usage()
    assert more.descriptors == less.descriptors + 1
    assert less.cpu >= more.cpu > 0
    assert less.started == more.started
    assert abs(time.time() - less.started) < 86400
    assert less.memory > 1 << 20
    assert less.threads >= 1


def test_usage_that_cannot_be_read_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlb.metrics.usage._SELF", Path("/nowhere"))
    found = usage()
    assert (found.memory, found.descriptors, found.threads) == (0, 0, 0)
    assert found.cpu > 0


@pytest.mark.alone
@pytest.mark.slow
def test_a_large_node_costs_little() -> None:
    """Ten thousand backends: less than four times what it takes to make objects of their counts."""
    ports = tuple(Port(20_000 + number, 80) for number in range(200))
    pairs = tuple((port, task(f"web.{number}.{port}")) for port in ports for number in range(50))
    counted = Statistics(ports, bytearray(port_row() * 200), pairs, bytearray(backend_row() * len(pairs)))
    status = Status(
        "0", STATUS.source, ports=tuple(PortStatus(port, "web", PortState.SERVING) for port in ports)
    )
    decoding = cpu_of(lambda: list(counted.of_backends()))
    writing = cpu_of(lambda: text(families(status, counted, USAGE)))
    assert writing < decoding * 4, (writing, decoding)
