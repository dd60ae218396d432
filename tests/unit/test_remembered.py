"""What managers told last, on disk: there after a restart, and no disk can do harm."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from channel import until
from swarm_ca import SwarmCA

from meshlb.model import Desired, Port, Prepared, Protocol, Service
from meshlb.peers.identity import load
from meshlb.swarm import remembered
from meshlb.swarm.remembered import DESIRED, PREPARED, Memory

FILE = DESIRED.file
WEB = Service("s", "web", (Port(53, 5353, Protocol.UDP),), (), (("meshlb.balance", "source"),))


def desired(number: int) -> Desired:
    return Desired((WEB,), (), frozenset({"t1"}), (f"problem {number}",))


def without_stopping(number: int) -> Desired:
    return Desired((WEB,), (), frozenset(), (f"problem {number}",))


def memory(root: Path, place: Path, every: float = 0.02) -> Memory[Desired]:
    cluster = load(root).cluster
    return Memory(place, lambda: cluster, DESIRED, every)


def during(memory: Memory[Any], scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the memory while the scenario lasts."""

    async def main() -> None:
        task = asyncio.create_task(memory.run())
        try:
            await scenario()
        finally:
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())


def write(memory: Memory[Desired], number: int = 1) -> None:
    async def scenario() -> None:
        memory.keep(desired(number))
        await asyncio.sleep(0)

    during(memory, scenario)


def test_what_is_kept_is_there_after_a_restart(worker: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "state"
    write(memory(worker, place))
    assert memory(worker, place).recall(str(worker)) == without_stopping(1)
    assert (place / FILE).stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in place.iterdir()] == [FILE]


def test_what_other_nodes_have_prepared_is_there_after_a_restart(worker: Path, tmp_path: Path) -> None:
    told = {"10.0.0.2": Prepared(frozenset({"t"}), frozenset({"10.255.0.2"}), frozenset({"10.255.0.0/24"}))}
    kept = Memory(tmp_path, lambda: load(worker).cluster, PREPARED, 0.02)

    async def scenario() -> None:
        kept.keep(told)
        await until((tmp_path / PREPARED.file).exists, "the writing")

    during(kept, scenario)
    assert Memory(tmp_path, str, PREPARED).recall(str(worker)) == told
    (tmp_path / PREPARED.file).write_text(f"meshlb 1 {load(worker).cluster}\n[1]")
    assert Memory(tmp_path, str, PREPARED).recall(str(worker)) is None


def test_nothing_kept_is_nothing_to_complain_about(
    worker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert memory(worker, tmp_path / "state").recall(str(worker)) is None
    assert not caplog.records


def test_many_changes_are_few_writings(worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(remembered, "replace", lambda path, data: written.append(data))
    kept = memory(worker, tmp_path, every=3600)

    async def scenario() -> None:
        for number in range(200):
            kept.keep(desired(number))
            await asyncio.sleep(0.001)
        await until(lambda: written, "the first writing")

    during(kept, scenario)
    assert len(written) == 2, "at once, and what came after it at the end"
    assert b"problem 199" in written[-1]


def test_what_changes_only_in_what_is_not_kept_is_not_written_again(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(remembered, "replace", lambda path, data: written.append(data))
    kept = memory(worker, tmp_path)

    async def scenario() -> None:
        kept.keep(desired(1))
        await until(lambda: written, "the writing")
        kept.keep(without_stopping(1))
        await asyncio.sleep(0.1)

    during(kept, scenario)
    assert len(written) == 1


def test_it_waits_until_it_knows_its_swarm(worker: Path, tmp_path: Path) -> None:
    known: list[str] = []
    kept = Memory(tmp_path / "state", lambda: known[0] if known else "", DESIRED, 0.02)

    async def scenario() -> None:
        kept.keep(desired(1))
        await asyncio.sleep(0.1)
        assert not (tmp_path / "state").exists()
        known.append(load(worker).cluster)
        await until((tmp_path / "state" / FILE).exists, "the writing")

    during(kept, scenario)
    assert kept.recall(str(worker)) == without_stopping(1)


def test_another_swarms_is_ignored(worker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(memory(worker, tmp_path / "state"))
    other = SwarmCA(tmp_path / "other").root("worker")
    assert memory(other, tmp_path / "state").recall(str(other)) is None
    [record] = caplog.records
    assert "it is of another Swarm" in record.getMessage()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 100, b"meshlb 2 x\n{}", b"meshlb 1 CLUSTER\n{}", b"meshlb 1 CLUSTER\n" + b"[" * 100_000],
)
def test_garbage_is_ignored(
    worker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    (tmp_path / FILE).write_bytes(data.replace(b"CLUSTER", load(worker).cluster.encode()))
    assert memory(worker, tmp_path).recall(str(worker)) is None
    assert len(caplog.records) == 1


def test_a_huge_file_is_not_read(worker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(1 << 40)
    assert memory(worker, tmp_path).recall(str(worker)) is None
    assert "larger than" in caplog.text


def test_a_directory_or_a_node_without_certificates_is_ignored(
    worker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(memory(worker, tmp_path / "state"))
    assert memory(worker, tmp_path / "state").recall(str(tmp_path)) is None
    (tmp_path / FILE).mkdir()
    assert memory(worker, tmp_path).recall(str(worker)) is None
    assert len(caplog.records) == 2


def test_a_disk_that_takes_nothing_is_told_once_and_lived_with(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "meshlb")
    real, failures = os.fsync, [28] * 3

    def fsync(descriptor: int) -> None:
        if failures:
            raise OSError(failures.pop(), "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    kept = memory(worker, tmp_path / "state")

    async def scenario() -> None:
        kept.keep(desired(1))
        await until(lambda: not failures, "three attempts")
        await until((tmp_path / "state" / FILE).exists, "the fourth")

    during(kept, scenario)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("No space left on device" in line for line in lines) == 1
    assert sum("is written again" in line for line in lines) == 1
    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE]


def test_a_writing_that_breaks_off_leaves_the_last_one(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = memory(worker, tmp_path / "state")
    write(kept)

    def fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    write(kept, 2)
    assert kept.recall(str(worker)) == without_stopping(1)
    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE]


def test_a_link_in_its_place_is_not_followed(worker: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    place = tmp_path / "state"
    place.mkdir()
    (place / f".{FILE}.new").symlink_to(victim)
    write(memory(worker, place))
    assert victim.read_text() == "precious"
