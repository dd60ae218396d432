"""The ways over an overlay to nodes that gossip has lost, in the tables of a kernel."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshlb import overlay
from meshlb._fastpath import enter_namespace
from meshlb.overlay import Overlay

LOST, OTHER = "198.18.0.13", "198.18.0.12"
TASK, HARDWARE = "10.0.0.4", "02:42:0a:00:00:04"
ELSE, ITS_HARDWARE = "10.0.0.3", "02:42:0a:00:00:03"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


class Tunnels:
    """A namespace like the one in which Docker's overlay ends, and what Docker does in it."""

    def __init__(self, name: str) -> None:
        self.name, self.path = name, Path("/var/run/netns", name)

    def ip(self, *words: str) -> str:
        return subprocess.run(
            ["ip", "-n", self.name, *words], check=True, capture_output=True, text=True
        ).stdout

    def bridge(self, *words: str) -> str:
        return subprocess.run(
            ["bridge", "-n", self.name, *words], check=True, capture_output=True, text=True
        ).stdout

    def build(self) -> None:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        kind = ("type", "vxlan", "id", "4096", "dstport", "4789", "proxy", "l2miss", "l3miss")
        self.ip("link", "add", "vxlan0", *kind)
        self.ip("link", "set", "vxlan0", "up")

    def add(self, task: str, hardware: str, host: str) -> None:
        self.ip("neigh", "replace", task, "lladdr", hardware, "dev", "vxlan0", "nud", "permanent")
        self.bridge("fdb", "replace", hardware, "dev", "vxlan0", "dst", host, "self", "permanent")

    def remove(self, task: str, hardware: str, host: str) -> None:
        self.ip("neigh", "del", task, "dev", "vxlan0")
        self.bridge("fdb", "del", hardware, "dev", "vxlan0", "dst", host, "self")

    @property
    def ways(self) -> set[str]:
        """The tasks and hosts that there are ways to, those of ours with a star."""
        resolved = {
            line.split()[0] + ("" if "PERMANENT" in line else "*")
            for line in self.ip("-4", "neigh", "show", "nud", "all", "dev", "vxlan0").splitlines()
            if "lladdr" in line
        }
        forwarded = {
            line.split(" dst ")[1].split()[0] + ("" if "permanent" in line else "*")
            for line in self.bridge("fdb", "show", "dev", "vxlan0").splitlines()
            if " dst " in line
        }
        return resolved | forwarded


@pytest.fixture
def tunnels() -> Iterator[Tunnels]:
    found = Tunnels(f"meshlb-overlay-{os.getpid()}")
    try:
        found.build()
        found.add(TASK, HARDWARE, LOST)
        found.add(ELSE, ITS_HARDWARE, OTHER)
        yield found
    finally:
        subprocess.run(["ip", "netns", "delete", found.name], check=False, capture_output=True)


async def until(is_so: Callable[[], bool], what: str) -> None:
    for _ in range(1000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


@pytest.fixture
def keeper() -> Overlay:
    return Overlay(enter_namespace)


def play(scenario: Callable[[], object], keeper: Overlay) -> None:
    async def whole() -> None:
        try:
            await scenario()  # type: ignore[misc]
        finally:
            keeper.close()

    asyncio.run(whole())


def test_what_is_removed_of_a_lost_node_is_put_back(tunnels: Tunnels, keeper: Overlay) -> None:
    async def scenario() -> None:
        keeper.keep(str(tunnels.path), frozenset())
        tunnels.remove(TASK, HARDWARE, LOST)
        tunnels.remove(ELSE, ITS_HARDWARE, OTHER)
        await asyncio.sleep(0.1)
        assert tunnels.ways == set()
        keeper.keep(str(tunnels.path), frozenset({LOST}))
        assert tunnels.ways == {f"{TASK}*", f"{LOST}*"}

    play(scenario, keeper)


def test_what_is_removed_later_is_put_back_as_well(tunnels: Tunnels, keeper: Overlay) -> None:
    async def scenario() -> None:
        keeper.keep(str(tunnels.path), frozenset({LOST}))
        tunnels.remove(TASK, HARDWARE, LOST)
        await until(lambda: tunnels.ways == {f"{TASK}*", f"{LOST}*", ELSE, OTHER}, "both")

    play(scenario, keeper)


def test_what_docker_does_not_put_back_goes_when_the_node_is_found(
    tunnels: Tunnels, keeper: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "GRACE", 0.2)

    async def scenario() -> None:
        tunnels.add("10.0.0.5", "02:42:0a:00:00:05", LOST)
        keeper.keep(str(tunnels.path), frozenset({LOST}))
        tunnels.remove(TASK, HARDWARE, LOST)
        tunnels.remove("10.0.0.5", "02:42:0a:00:00:05", LOST)
        await until(lambda: {"10.0.0.5*", f"{TASK}*"} < tunnels.ways, "all")
        keeper.keep(str(tunnels.path), frozenset())
        tunnels.add(TASK, HARDWARE, LOST)  # Docker's own words again
        await until(lambda: tunnels.ways == {TASK, LOST, ELSE, OTHER}, "only what Docker has put there")

    play(scenario, keeper)


def test_namespace_that_cannot_be_entered_is_said_once(
    tmp_path: Path, keeper: Overlay, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1-none").touch()

    async def scenario() -> None:
        for _ in range(3):
            keeper.keep(str(tmp_path / "1-none"), frozenset({LOST}))

    play(scenario, keeper)
    assert len(caplog.records) == 1
    assert "1-none cannot be followed (Invalid argument)" in caplog.text


def test_namespace_may_come_later(
    tunnels: Tunnels, keeper: Overlay, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        keeper.keep(f"{tunnels.path}-not", frozenset())  # as while dockerd restarts
        keeper.keep(str(tunnels.path), frozenset({LOST}))
        tunnels.remove(TASK, HARDWARE, LOST)
        await until(lambda: tunnels.ways == {f"{TASK}*", f"{LOST}*", ELSE, OTHER}, "both")

    play(scenario, keeper)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
