"""The ways of answers to clients' own addresses: kept while connections use them, then gone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from made_overlay import CLIENT, HOSTS, TASK, Overlay
from waiting import eventually

from meshlb._fastpath import enter_namespace
from meshlb.kernel.nft import NftError
from meshlb.model import Face, Prepared, Wanted
from meshlb.transparent import preparing, task_ways
from meshlb.transparent.answers import NO_NFT, Answers, words
from meshlb.transparent.preparing import Preparing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRACE", "AGAIN", "LOOK"):
        monkeypatch.setattr(preparing, name, 0.05)


@pytest.fixture
def wanted(overlay: Overlay, tmp_path: Path) -> Wanted:
    """In a directory where no other session's namespaces are."""
    for address in (*HOSTS, TASK):
        (tmp_path / overlay.name(address)).symlink_to(overlay.path(address))
    path = tmp_path / overlay.name(HOSTS[0])
    return Wanted(True, (("task", TASK),), frozenset(HOSTS), str(path), path.stat().st_ino)


def during(scenario: Callable[[Preparing, list[tuple[Prepared, Face]]], Coroutine[Any, Any, None]]) -> None:
    """Run it beside what keeps the ways."""
    told: list[tuple[Prepared, Face]] = []

    async def main() -> None:
        made = Preparing(enter_namespace, lambda prepared, face: told.append((prepared, face)))
        task = asyncio.create_task(made.run())
        try:
            await scenario(made, told)
        finally:
            task.cancel()
            await asyncio.wait([task])
            made.close()

    asyncio.run(main())


async def until(predicate: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(lambda: eventually(predicate, timeout=20, what=what))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_ways_stay_as_long_as_connections_use_them(overlay: Overlay, wanted: Wanted, kind: int) -> None:
    before = [overlay.left(host) for host in (HOSTS[0], TASK)]

    async def scenario(made: Preparing, told: list[tuple[Prepared, Face]]) -> None:
        made.want(wanted)
        await until(lambda: told and told[-1][1].address == HOSTS[0], "the ways")
        with overlay.socket_as_client(HOSTS[0], 0, kind) as end:
            if kind == socket.SOCK_DGRAM:
                end.send(b"begun")
                assert CLIENT.encode() in await asyncio.to_thread(end.recv, 100)
            made.want(Wanted())
            await until(lambda: told[-1] == (Prepared(), Face()), "nothing to be told any more")
            await asyncio.sleep(0.5)  # many looks
            end.sendall(b"still there?")
            assert b"still there?" in await asyncio.to_thread(end.recv, 100)
        if kind == socket.SOCK_STREAM:  # of UDP the kernel waits for another 120 s
            await until(lambda: [overlay.left(host) for host in (HOSTS[0], TASK)] == before, "all to be gone")

    during(scenario)


def test_a_task_that_cannot_be_prepared_is_told_with_the_reason(
    wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str) -> None:
        raise NftError("Could not process rule: Operation not supported")

    async def scenario(made: Preparing, told: list[tuple[Prepared, Face]]) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(task_ways, "_nft", refuse)
            made.want(wanted)
            await until(lambda: told, "a word")
            prepared, face = told[-1]
            assert (prepared.tasks, face.address) == (frozenset(), HOSTS[0])
            assert TASK in prepared.problem
            assert "not supported" in prepared.problem
        await until(lambda: told[-1][0].tasks == {"task"}, "it to be prepared once it can be")
        assert not told[-1][0].problem

    during(scenario)


def test_a_node_whose_nft_is_killed_has_its_way_again(overlay: Overlay, wanted: Wanted) -> None:
    async def scenario(made: Preparing, told: list[tuple[Prepared, Face]]) -> None:
        made.want(wanted)
        await until(lambda: told and told[-1][1].address, "the ways")
        child = made._answers._child
        assert child
        os.kill(child.pid, 9)
        await until(lambda: made._answers.is_open and made._answers._child is not child, "another one")
        with overlay.socket_as_client(HOSTS[0], 0) as end:
            end.sendall(b"hello")
            assert b"hello" in await asyncio.to_thread(end.recv, 100)

    during(scenario)


def test_without_nft_it_is_said_what_to_install(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(enter_namespace)
    with monkeypatch.context() as without:
        without.setenv("PATH", "/nowhere")
        assert not answers.open(overlay.path(HOSTS[0]))
        with pytest.raises(FileNotFoundError) as caught:
            task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    assert answers.problem == words(caught.value) == NO_NFT
