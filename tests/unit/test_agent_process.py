"""The agent as a process: its limits, its signals, its event loop, what it tells systemd."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import pytest

from meshlb import process
from meshlb.errors import ConfigError
from meshlb.handover import systemd


@pytest.fixture
def listener() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(5)
    return sock


def test_notify_reaches_a_path_and_an_abstract_address(
    listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("RELOADING=1", "MONOTONIC_USEC=5")
        assert listener.recv(100) == b"RELOADING=1\nMONOTONIC_USEC=5"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.settimeout(5)
        abstract.bind(f"\0meshlb-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@meshlb-test-{os.getpid()}")
        systemd.notify("READY=1")
        assert abstract.recv(100) == b"READY=1"


def test_notify_without_systemd_is_silent_and_a_lost_one_harmless(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    assert not caplog.records
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    systemd.notify("READY=1")
    assert "systemd cannot be notified" in caplog.text


def test_the_file_limit_is_raised_to_the_hard_one(caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert process.raise_file_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert ("files may be open" in caplog.text) == (hard < process.LOW_FILE_LIMIT)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_low_limit_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlb.process.resource.getrlimit", lambda _: (256, 1024))
    monkeypatch.setattr("meshlb.process.resource.setrlimit", lambda *_: None)
    assert process.raise_file_limit() == 1024
    assert "only 1024 files may be open: a connection takes two" in caplog.text
    assert "raise LimitNOFILE" in caplog.text


def test_a_limit_that_cannot_be_raised_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("not permitted")

    monkeypatch.setattr("meshlb.process.resource.getrlimit", lambda _: (65536, 1 << 30))
    monkeypatch.setattr("meshlb.process.resource.setrlimit", refuse)
    assert process.raise_file_limit() == 65536
    assert "stays at 65536: not permitted" in caplog.text


@pytest.mark.parametrize("choice", ["auto", "asyncio", "uvloop"])
def test_the_first_signal_asks_the_second_insists(choice: str) -> None:
    if choice == "uvloop":
        pytest.importorskip("uvloop")

    async def scenario() -> None:
        signals = process.Signals()
        # pytest's own timeout does not get through to a waiting uvloop.
        async with asyncio.timeout(10):
            with signals.handled():
                os.kill(os.getpid(), signal.SIGHUP)
                await signals.reload.wait()
                os.kill(os.getpid(), signal.SIGTERM)
                await signals.stop.wait()
                assert not signals.at_once.is_set()
                os.kill(os.getpid(), signal.SIGINT)
                await signals.at_once.wait()

    with asyncio.Runner(loop_factory=process.loop_factory(choice)) as runner:
        runner.run(scenario())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_without_uvloop_it_is_asyncio_or_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert process.loop_factory("auto") is asyncio.new_event_loop
    assert process.loop_factory("asyncio") is asyncio.new_event_loop
    with pytest.raises(ConfigError, match="uvloop is not installed; use --loop asyncio"):
        process.loop_factory("uvloop")
