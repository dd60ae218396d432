"""Between engine, channel and disk: what one node's engine says reaches the other node's, and its disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import ports
import pytest
from channel import HERE, THERE, run, state, until
from swarm_ca import SwarmCA

from meshlb.advice import Advice
from meshlb.model import BackendState, ChannelStatus, Desired, Face, Prepared, Remote, Standing
from meshlb.overlay import Overlay
from meshlb.parts import _advising
from meshlb.peers.identity import load
from meshlb.swarm.remembered import PREPARED, Memory
from meshlb.transparent.preparing import Preparing


class Source:
    """What an engine would be told, and what it says."""

    def __init__(self) -> None:
        self.on_standing: Callable[[Standing], None] = lambda standing: None
        self.recall: Callable[[str], Desired | None] = lambda root: None
        self.channel: Callable[[], ChannelStatus | None] = lambda: None
        self.patience = 0.0
        self.advised: list[Desired] = []
        self.learnt: list[Remote] = []

    def advise(self, desired: Desired) -> None:
        self.advised.append(desired)

    def learn(self, remote: Remote) -> None:
        self.learnt.append(remote)


@contextlib.asynccontextmanager
async def node(standing: Standing, port: int, place: Path | None = None) -> AsyncIterator[Source]:
    """A node whose engine says this."""
    source = Source()
    advice = Advice(source, standing.address, port, place)
    task = asyncio.create_task(advice.run())
    await asyncio.sleep(0)
    assert source.channel() is not None
    source.on_standing(standing)
    try:
        yield source
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def port() -> int:
    return ports.free()


def test_two_nodes(ca: SwarmCA, manager: Path, worker: Path, port: int, tmp_path: Path) -> None:
    both = (HERE, THERE)
    manages = Standing(str(manager), HERE, (HERE,), both, state("one"), {"m": BackendState.DRAINING})
    works = Standing(str(worker), THERE, (HERE,), both, None, {"w": BackendState.DOWN}, {"m": HERE})

    async def scenario() -> None:
        async with node(manages, port, tmp_path / "m") as one, node(works, port, tmp_path / "w") as two:
            await until(lambda: two.advised == [state("one")], "what the manager knows")
            await until(lambda: two.learnt and two.learnt[-1].tasks == {HERE: manages.states}, "its tasks")
            await until(lambda: one.learnt and one.learnt[-1].tasks == {THERE: works.states}, "the worker's")
            assert not one.advised
            for source in (one, two):
                status = source.channel()
                assert status is not None
                assert (status.peers, status.connected, status.suspected) == (1, 1, ())
                assert status.problem == ""
            for place in ("m", "w"):
                await until((tmp_path / place / "desired").exists, "the file")
            assert two.recall(str(worker)) == state("one")
            assert one.recall(str(manager)) == state("one")

    run(scenario())


def test_who_hears_nobody_any_more_believes_nobody(
    ca: SwarmCA, manager: Path, worker: Path, port: int
) -> None:
    """An agent that has given its place to another one serves on what connections it has, maybe for days."""
    both, told = (HERE, THERE), replace(state("one"), stopping=frozenset({"s"}))
    manages = Standing(str(manager), HERE, (HERE,), both, told, {"m": BackendState.DRAINING})

    async def scenario() -> None:
        source = Source()
        advice = Advice(source, THERE, port)
        async with node(manages, port):
            async with _advising(advice):
                source.on_standing(Standing(str(worker), THERE, (HERE,), both, None, {}, {"m": HERE}))
                await until(lambda: source.advised == [told], "what the manager knows")
                await until(lambda: source.learnt and source.learnt[-1].tasks, "its tasks")
            assert source.learnt[-1] == Remote()
            assert source.advised == [told, replace(state("one"), old=True)]

    run(scenario())


def test_what_others_have_prepared_is_known_before_they_are_heard(
    worker: Path, port: int, tmp_path: Path
) -> None:
    told = {THERE: Prepared(frozenset({"t"}), frozenset({"10.255.0.2"}), frozenset({"10.255.0.0/24"}))}
    face = Face("10.255.0.2", 7)

    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: load(worker).cluster, PREPARED, 0.01)
        writing = asyncio.create_task(memory.run())
        memory.keep(told)
        await until((tmp_path / PREPARED.file).exists, "the file")
        writing.cancel()
        source, preparing = Source(), Preparing(lambda descriptor: None)
        Advice(source, HERE, port, tmp_path, preparing=preparing)
        assert source.patience
        source.recall(str(worker))
        source.on_standing(Standing(str(worker), HERE))
        assert source.learnt, "who knows no policies waits for nothing"
        preparing.told(Prepared(), face)
        assert (source.learnt[-1].prepared[THERE], source.learnt[-1].face) == (told[THERE], face)

    run(scenario())


class Kept(Overlay):
    """Notes whose ways are kept."""

    def __init__(self) -> None:
        super().__init__(lambda descriptor: None)
        self.lost: list[frozenset[str]] = []

    def keep(self, path: str, lost: frozenset[str]) -> None:
        self.lost.append(lost)


def test_ways_lead_to_the_addresses_that_nodes_have_for_their_data(worker: Path, port: int) -> None:
    async def scenario() -> None:
        source, kept = Source(), Kept()
        advice = Advice(source, HERE, port, overlay=kept)
        lost, paths = frozenset({THERE, "10.0.0.7"}), {THERE: "172.16.0.9"}
        source.on_standing(Standing(str(worker), HERE, overlay="/overlay", lost=lost, paths=paths))
        advice.forget()
        assert kept.lost == [{"172.16.0.9", "10.0.0.7"}]

    run(scenario())


def test_without_a_directory_nothing_is_kept(worker: Path, port: int) -> None:
    async def scenario() -> None:
        async with node(Standing(str(worker), HERE), port) as source:
            assert source.recall(str(worker)) is None

    run(scenario())
