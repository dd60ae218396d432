"""Durations, sizes, CPUs, long forms, mounts and networks."""

from typing import Any

import pytest

from meshlb.cluster.mount import mount, network
from meshlb.cluster.order import natural
from meshlb.cluster.units import fields, nanocpus, nanoseconds, size
from meshlb.errors import ConfigError


def test_durations_are_go_s() -> None:
    texts = ["0", "10s", "1m30s", "250ms", "1.5h", "1h0m1s", "3us"]
    assert [nanoseconds(text) for text in texts] == [
        0,
        10**10,
        90 * 10**9,
        25 * 10**7,
        5400 * 10**9,
        3601 * 10**9,
        3000,
    ]


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1 s", "1s2", "1e3s", "99999999h"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration like"):
        nanoseconds(text)


def test_sizes_step_by_1024() -> None:
    texts = ["0", "512", "4k", "1.5m", "2g", "64MB", "64MiB", "1 gb", "7b"]
    assert [size(text) for text in texts] == [
        0,
        512,
        4096,
        1572864,
        2 * 1024**3,
        64 * 1024**2,
        64 * 1024**2,
        1024**3,
        7,
    ]


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "1e3", "999999999t"])
def test_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        size(text)


def test_cpus() -> None:
    assert [nanocpus(text) for text in ("0.5", "2", ".25")] == [5 * 10**8, 2 * 10**9, 25 * 10**7]


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "0.0000000001", "1e999999"])
def test_no_cpus(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a number of CPUs"):
        nanocpus(text)


def test_fields_are_csv() -> None:
    assert fields('type=bind,"source=/a,b",readonly') == [
        ("type", "bind"),
        ("source", "/a,b"),
        ("readonly", ""),
    ]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (
            "type=bind,src=/a,dst=/b,ro",
            {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True},
        ),
        ("target=/b", {"Type": "volume", "Target": "/b"}),
        (
            "type=tmpfs,target=/b,tmpfs-size=1m,tmpfs-mode=1777",
            {"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": 1048576, "Mode": 0o1777}},
        ),
        (
            "source=v,target=/b,volume-label=a=b,volume-driver=d,volume-opt=o=p",
            {
                "Type": "volume",
                "Source": "v",
                "Target": "/b",
                "VolumeOptions": {
                    "Labels": {"a": "b"},
                    "DriverConfig": {"Name": "d", "Options": {"o": "p"}},
                },
            },
        ),
    ],
)
def test_mounts(text: str, made: dict[str, Any]) -> None:
    assert mount(text) == made


@pytest.mark.parametrize(
    "text",
    [
        "type=x,target=/b",
        "type=bind,target=/b",
        "source=v",
        "target=/b,foo=bar",
        "target=/b,ro=perhaps",
        "type=tmpfs,target=/b,tmpfs-mode=9",
    ],
)
def test_no_mounts(text: str) -> None:
    with pytest.raises(ConfigError):
        mount(text)


def test_networks() -> None:
    assert network("backend") == {"Target": "backend"}
    assert network("name=backend,alias=db,alias=sql") == {"Target": "backend", "Aliases": ["db", "sql"]}
    for text in ("alias=db", "name=x,foo=y"):
        with pytest.raises(ConfigError):
            network(text)


def test_natural_order() -> None:
    assert sorted(["web10", "web2", "Web", "9", "web"], key=natural) == ["9", "Web", "web", "web2", "web10"]
