"""The benchmarks' arithmetic, and what they make of other programs' answers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.aims import AIMS, judged
from benchmarks.compare import differences
from benchmarks.figures import lower_edge, median, percentile, slope, spread
from benchmarks.hosts import Host
from benchmarks.proxies import Route, Setting, nginx_options, render
from benchmarks.report import lines
from benchmarks.results import Key, Results, load
from benchmarks.tools import (
    memory_of_kernel,
    parse_callgrind,
    parse_iperf,
    parse_packets,
    parse_strace,
    parse_wrk,
)

WRK = """Running 1s test @ http://10.71.1.1:20000/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   425.31us  107.11us   3.37ms   87.05%
  74932 requests in 1.00s, 14.79MB read
  Socket errors: connect 0, read 3, write 0, timeout 2
Requests/sec:  74895.20
"""
STRACE = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000300           1       300           recvfrom
 40.00    0.000200           1       200        10 connect
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500           1       500        10 total
"""
NETWORK = """Inter-|   Receive                        |  Transmit
 face |bytes    packets errs drop fifo frame comp mult|bytes    packets errs drop fifo colls carrier comp
    lo:     200       2    0    0    0     0    0    0      200       2    0    0    0     0       0    0
front0: 1000000    3000    0    0    0     0    0    0   500000    4000    0    0    0     0       0    0
"""
SHORT = Key("short", "wire-one", "rate", "connections/s")


def results(**peers: list[float]) -> Results:
    return Results(
        {"cores": "2"}, {SHORT: {name.replace("_", "-"): values for name, values in peers.items()}}
    )


def test_histogram_cells_keep_their_order_and_lose_three_percent() -> None:
    edges = [lower_edge(cell) for cell in range(1000)]
    assert edges == sorted(set(edges))
    assert all(high / low - 1 <= 1 / 32 for low, high in itertools.pairwise(edges[32:]))


def test_packets_of_a_host() -> None:
    assert parse_packets(NETWORK) == 2 + 2 + 3000 + 4000


def test_percentile_of_a_histogram() -> None:
    cells = {"10": 98, "63": 1, "64": 1}
    assert percentile(cells, 0.5) == 10e-9
    assert percentile(cells, 0.99) == 63e-9
    assert percentile(cells, 1.0) == 64e-9
    assert percentile({}, 0.99) == 0.0


def test_median_spread_and_slope() -> None:
    assert median([3, 1, 2]) == 2
    assert spread([10.0]) == 0.0
    assert spread([8.0, 9.0, 10.0, 11.0, 12.0]) == pytest.approx(0.1)
    assert slope([(1, 15), (2, 25), (3, 35)]) == pytest.approx(10)


def test_what_other_programs_say() -> None:
    assert parse_wrk(WRK) == (74932, 5)
    assert parse_iperf('{"end": {"sum_received": {"bytes": 12345}}}') == 12345
    assert parse_strace(STRACE) == 500
    assert parse_strace("") == 0
    assert parse_callgrind("events: Ir\nsummary: 4711\n\n") == 4711
    assert (
        memory_of_kernel("MemFree: 9 kB\nSlab:  100 kB\nKernelStack: 8 kB\nPageTables: 4 kB\n") == 112 << 10
    )


def test_wrk_that_says_nothing_is_no_result() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        parse_wrk("unable to connect to 10.71.1.1:20000 Connection refused")


@pytest.mark.parametrize(
    ("ours", "verdict"), [(14_000.0, "aim"), (12_000.0, "floor"), (10_000.0, "missed")], ids=str
)
def test_aims_are_ratios_of_medians(ours: float, verdict: str) -> None:
    found = {
        judgement.aim.what: judgement
        for judgement in judged(results(meshlb=[1.0, ours, 99_999.0], haproxy=[10_000.0] * 3))
    }
    against = found["connections/s against HAProxy"]
    assert against.verdict == verdict
    assert against.ratio == pytest.approx(ours / 10_000)


def test_less_is_better_for_cpu() -> None:
    key = Key("short", "wire-one", "CPU of the proxy", "µs")
    found = Results({}, {key: {"meshlb": [60.0], "haproxy": [90.0], "nginx": [75.0], "docker-proxy": [1.0]}})
    (only,) = judged(found)
    assert (only.verdict, only.ratio) == ("floor", 0.8)


def test_every_aim_is_further_than_its_floor() -> None:
    assert all((aim.aim < aim.floor) == aim.lowest for aim in AIMS)


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    written = results(meshlb=[1.0, 2.0], kernel_dnat=[3.0])
    written.save(tmp_path / "new" / "run.json")
    assert load(tmp_path / "new" / "run.json") == written


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 0, "about": {}, "samples": []}', "\0"])
def test_what_is_no_run_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is not a benchmark's results"):
        load(tmp_path / "run.json")


def test_only_what_exceeds_the_spread_differs() -> None:
    before = results(meshlb=[90.0, 100.0, 110.0], nginx=[100.0])
    after = results(meshlb=[91.0, 101.0, 111.0], nginx=[80.0])
    (line,) = differences(before, after)
    assert line == "wire-one short, rate, nginx: 100 -> 80 connections/s (-20%)"


def test_page_shows_each_peer_and_each_verdict() -> None:
    page = "\n".join(lines(results(meshlb=[9_000.0], haproxy=[10_000.0], direct=[20_000.0]), []))
    assert "| connections/s against HAProxy | wire-one | 0.90 | 1.1 | 1.25 | **missed** |" in page
    assert "| short | rate, connections/s | 20,000 | 9,000 | 10,000 |" in page


@pytest.mark.parametrize(("left", "note"), [(1.0, ", by exhausted ends"), (20.0, "")])
def test_page_tells_whose_limit_a_rate_is(left: float, note: str) -> None:
    found = results(meshlb=[9_000.0], haproxy=[10_000.0])
    found.add(Key("short", "wire-one", "idle, the ends' cores", "%"), "meshlb", left)
    assert f"| 0.90 | 1.1 | 1.25 | **missed**{note} |" in "\n".join(lines(found, []))


@pytest.mark.parametrize("template", ["meshlb.toml", "haproxy.cfg", "nginx.conf", "dnat.nft"])
def test_configurations_lead_every_port_to_its_backends(tmp_path: Path, template: str) -> None:
    routes = [Route(20000, ["10.72.0.1:8001", "10.72.0.2:8001"]), Route(20005, ["10.72.0.1:8004"], "udp")]
    setting = Setting(Host("none"), routes, tmp_path, "0")
    options = nginx_options(setting) if template == "nginx.conf" else {}
    text = render(
        template, setting, **({"splice": True} if template == "haproxy.cfg" else options)
    ).read_text()
    assert "20000" in text
    assert "10.72.0.1:8001" in text
    assert ("20005" in text) == (template != "haproxy.cfg")  # which has no UDP
    assert "{" + "%" not in text
