"""/metrics as protobuf: read by a reader that knows nothing of the writer, and by a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mesh import free_port
from prometheus_client.parser import text_string_to_metric_families as parse
from promtool import program
from waiting import eventually

from meshlb.http import server as http
from meshlb.metrics.exposition import Family, text
from meshlb.metrics.protobuf import protobuf
from meshlb.model import Histogram

Members = dict[int, list[Any]]
BUCKETS = (4, 0, 0, 7, 1, *[0] * 17, 2, 3)
OF = Histogram(2_500_000, BUCKETS)
TAIL = '{service="we\\"b\\\\",port="80"}'
FAMILIES = [
    Family(
        "x_seconds",
        "histogram",
        "How long.",
        ("service", "port"),
        histograms=[(TAIL, OF), ('{a="b"}', Histogram(0, (0,) * 24))],
    ),
    Family("y", "counter", "How many.", (), (" 5",)),
    Family("z_seconds", "summary", "How long.", ("a",), ('_count{a="b"} 3', '_sum{a="b"} 0.25')),
    Family("g", "gauge", "How much.", ("a",), ('{a="b"} 300', '{a="é"} 0.5')),
]


QUERIES = (
    "histogram_count(meshlb_connect_seconds)",
    "histogram_fraction(0, 0.0001, meshlb_connect_seconds)",
    "sum by (service) (meshlb_backend_connect_seconds_count)",
)


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def members(data: bytes) -> Members:
    """By number: whole numbers, doubles, or bytes."""
    found: Members = {}
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        value: Any
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 1:
            (value,), at = struct.unpack_from("<d", data, at), at + 8
        else:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        found.setdefault(key >> 3, []).append(value)
    assert at == len(data)
    return found


def delimited(data: bytes) -> Iterator[Members]:
    at = 0
    while at < len(data):
        size, at = varint(data, at)
        yield members(data[at : at + size])
        at += size


def signed(number: int) -> int:
    return number >> 1 if not number & 1 else -(number >> 1) - 1


def labels(metric: Members) -> dict[str, str]:
    pairs = (members(each) for each in metric.get(1, []))
    return {pair[1][0].decode(): pair[2][0].decode() for pair in pairs}


def test_families_are_told_whole() -> None:
    x, y, z, g = delimited(protobuf(FAMILIES))
    assert [each[1][0] for each in (x, y, z, g)] == [b"x_seconds", b"y_total", b"z_seconds", b"g"]
    assert [each[3][0] for each in (x, y, z, g)] == [4, 0, 2, 1]
    assert labels(members(x[4][0])) == {"service": 'we"b\\', "port": "80"}
    assert members(members(y[4][0])[3][0]) == {1: [5.0]}
    assert members(members(z[4][0])[4][0]) == {1: [3], 2: [0.25]}
    values = [(labels(metric), members(metric[2][0])[1][0]) for metric in map(members, g[4])]
    assert values == [({"a": "b"}, 300.0), ({"a": "é"}, 0.5)]


def test_a_histogram_is_native_and_classic() -> None:
    family = next(delimited(protobuf(FAMILIES)))
    of, empty = (members(members(each)[7][0]) for each in family[4])
    assert (of[1], of[2]) == ([17], [2.5])
    assert (of[5], of[6], of[7]) == ([0], [2.0**-14], [4])
    index, found, deltas = 0, {}, iter(map(signed, of[13]))
    count = 0
    for span in map(members, of[12]):
        index += signed(span[1][0])
        for _ in range(span[2][0]):
            count += next(deltas)
            found[2.0**index] = count
            index += 1
    assert found == {2.0**-11: 7, 2.0**-10: 1, 2.0**8: 2, 2.0**9: 3}
    buckets = {bucket[2][0]: bucket[1][0] for bucket in map(members, of[3])}
    text_ = [sample for each in parse(text(FAMILIES)) for sample in each.samples if "le" in sample.labels]
    assert buckets == {
        float(each.labels["le"]): each.value
        for each in text_
        if "port" in each.labels and each.labels["le"] != "+Inf"
    }
    assert (empty[1], empty[7], members(empty[12][0])) == ([0], [0], {1: [0], 2: [0]})


def test_a_real_prometheus_takes_native_histograms(tmp_path: Path) -> None:
    """Debian's does when it is told to; it then asks for protobuf."""
    from test_metrics import COUNTED, STATUS  # noqa: PLC0415

    port, command = free_port(), program("prometheus")
    configuration = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [{"job_name": "meshlb", "static_configs": [{"targets": ["ADDRESS"]}]}],
    }

    def ask(query: str) -> dict[str, float]:
        """By service."""
        url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:
            return {}
        return {each["metric"].get("service", ""): float(each["value"][1]) for each in found}

    def scraped() -> list[dict[str, float]]:
        """What the queries give once they all give something: a scrape may have been too slow."""
        answers: list[dict[str, float]] = []

        def answered() -> bool:
            answers[:] = map(ask, QUERIES)
            return all(answers)

        eventually(answered, timeout=40, what="Prometheus to have scraped", every=0.1)
        return answers

    async def scenario() -> None:
        async def status() -> Any:
            return STATUS

        async def statistics() -> Any:
            return COUNTED

        async with http.serve("127.0.0.1:0", status, None, statistics) as url:
            file = tmp_path / "prometheus.yml"
            file.write_text(json.dumps(configuration).replace("ADDRESS", url.removeprefix("http://")))
            options = [f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}"]
            options += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=native-histograms"]
            with (
                (tmp_path / "log").open("w") as log,
                subprocess.Popen([command, *options], stderr=log) as process,  # noqa: ASYNC220  # it is quick
            ):
                try:
                    counts, share, summary = await asyncio.to_thread(scraped)
                finally:
                    process.terminate()
        assert counts == {"web": 3, "dns": 0}
        assert share["web"] == pytest.approx(2 / 3, abs=0.05)
        assert summary == {"web": 7}

    asyncio.run(scenario())
