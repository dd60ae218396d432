"""The static source follows its file and survives every bad one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from meshlb.errors import ConfigError
from meshlb.model import Snapshot
from meshlb.static import MAX_BYTES, StaticSource, load


def text(*ports: int) -> str:
    return "".join(f'[[port]]\npublished = {port}\nbackends = ["10.0.0.1:1"]\n' for port in ports)


def published(snapshot: Snapshot) -> list[int]:
    return [service.ports[0].published for service in snapshot.services]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.toml"
    path.write_text(text(80))
    return path


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


async def after(seen: AsyncIterator[Snapshot]) -> list[int]:
    return published(await anext(seen))


async def told(source: StaticSource, problem: str) -> None:
    while problem not in source.status().problem:  # noqa: ASYNC110  # the scenario's timeout bounds it
        await asyncio.sleep(0.01)


def write(file: Path, content: str) -> None:
    file.write_text(content)


def remove(file: Path) -> None:
    file.unlink()


def replace(file: Path, content: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(content)
    fresh.rename(file)


def test_a_changed_file_is_followed_without_a_signal(file: Path) -> None:
    async def scenario() -> None:
        source = StaticSource(file, poll_interval=0.02)
        seen = source.snapshots()
        assert await after(seen) == [80]
        write(file, text(80, 81))
        assert await after(seen) == [80, 81]
        replace(file, text(82))
        assert await after(seen) == [82]

    run(scenario)


def test_reload_does_not_wait_for_the_poll(file: Path) -> None:
    async def scenario() -> None:
        source = StaticSource(file, poll_interval=3600)
        seen = source.snapshots()
        assert await after(seen) == [80]
        write(file, text(81))
        await source.reload()
        assert await after(seen) == [81]

    run(scenario)


def test_a_bad_file_leaves_the_snapshot_until_it_is_mended(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        source = StaticSource(file, poll_interval=0.02)
        seen = source.snapshots()
        assert await after(seen) == [80]
        pending = asyncio.ensure_future(anext(seen))
        for content in ("[[port]\n", "", text(0)):
            write(file, content)
            await told(source, f"{file}:" if content else "no port is published")
        remove(file)
        await told(source, "cannot be read: No such file or directory")
        assert not pending.done()
        assert source.status().connected
        write(file, text(82))
        assert published(await pending) == [82]
        assert source.status().problem == ""

    run(scenario)
    assert "the ports of the last good file are still served" in caplog.text


def test_a_file_that_is_still_being_written_is_left_alone(file: Path) -> None:
    async def scenario() -> None:
        source = StaticSource(file, poll_interval=3600)
        seen = source.snapshots()
        await after(seen)
        pending = asyncio.ensure_future(anext(seen))
        for ports in ((1000,), (1000, 1001), (1000, 1001, 1002)):
            write(file, text(*ports))
            await source._look()
        await source._look()
        assert published(await pending) == [1000, 1001, 1002]

    run(scenario)


def test_the_same_content_again_is_no_news(file: Path) -> None:
    async def scenario() -> None:
        source = StaticSource(file, poll_interval=3600)
        seen = source.snapshots()
        await after(seen)
        pending = asyncio.ensure_future(anext(seen))
        os.utime(file, (1, 1))
        await source.reload()
        await asyncio.sleep(0.05)
        assert not pending.done()
        write(file, text(83))
        await source.reload()
        assert published(await pending) == [83]

    run(scenario)


def test_a_bad_file_at_the_start_is_an_error_at_once(file: Path) -> None:
    file.write_text("[[port]\n")
    with pytest.raises(ConfigError, match=f"^{file}:1: "):
        StaticSource(file)


def test_what_is_no_readable_text_file_is_refused(tmp_path: Path) -> None:
    pipe, large, binary = tmp_path / "pipe", tmp_path / "large", tmp_path / "binary"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    binary.write_bytes(b"# fine\n# \xff\n")
    for path, reason in (
        (tmp_path / "none", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (pipe, "not a file; name a TOML file"),
        (Path("/dev/zero"), "not a file; name a TOML file"),
        (large, "larger than 1024 KiB"),
    ):
        with pytest.raises(ConfigError, match=f"^{path}: {reason}"):
            load(path)
    with pytest.raises(ConfigError, match=f"^{binary}:2: not UTF-8 text"):
        load(binary)


def test_a_backend_is_looked_for_among_the_nodes_addresses(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: set[str] = set()
    monkeypatch.setattr("meshlb.static.own_addresses", lambda: frozenset(own))
    file.write_text('[[port]]\npublished = 80\nbackends = ["10.0.0.1:80"]\n')
    assert load(file).services
    own.add("10.0.0.1")
    with pytest.raises(ConfigError, match=r":3: .* is the published port itself: a circle"):
        load(file)


def test_a_kernel_that_does_not_tell_addresses_is_no_reason_not_to_serve(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> frozenset[str]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("meshlb.static.own_addresses", refused)
    assert published(load(file)) == [80]
    file.write_text('[[port]]\npublished = 80\nbackends = ["127.0.0.1:80"]\n')
    with pytest.raises(ConfigError, match="a circle"):
        load(file)
