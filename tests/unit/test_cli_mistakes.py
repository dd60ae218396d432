"""Mistakes: every one is answered by one sentence that says what is wrong, and by docker's exit code."""

from __future__ import annotations

import errno
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker_cluster_words
import docker_words
import pytest
from click.testing import CliRunner, Result
from daemon import Daemon, Refusal, running
from waiting import eventually

from meshlb.cli import main

Run = Callable[..., Result]

SUPPORT = Path(docker_words.__file__).parent


def table(name: str) -> list[list[str]]:
    """The rows of a text whose cells stand between bars."""
    lines = (SUPPORT / name).read_text(encoding="utf-8").splitlines()
    return [line.split(" | ") for line in lines if not line.startswith("#")]


MISTAKES = table("mistakes.txt")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as table:
        table.answers |= docker_cluster_words.answers() | docker_words.answers(docker_words.DOCKER["full"])
        table.answers |= {
            "GET /services": [],
            "GET /services/nope": Refusal(404, "service nope not found"),
            "GET /tasks/nope": Refusal(404, "task nope not found"),
            "GET /swarm/unlockkey": {},
        }
        yield table


@pytest.fixture
def run(daemon: Daemon, tmp_path: Path) -> Run:
    environment = {
        "DOCKER_HOST": daemon.address,
        "DOCKER_CONFIG": str(tmp_path),
        "HOME": str(tmp_path),
        "MESHLB_AGENT": "127.0.0.1:1",
    }
    return lambda *words: CliRunner().invoke(main, words, env=environment)


@pytest.mark.parametrize(("typed", "code", "says"), MISTAKES)
def test_mistakes(run: Run, daemon: Daemon, typed: str, code: str, says: str) -> None:
    result = run(*shlex.split(typed))
    first, *rest = result.stderr.splitlines()
    assert (result.exit_code, says in first) == (int(code), True), result.stderr
    assert first.startswith("meshlb: ")
    # a mistake in how the command is used is followed by its usage, all others by nothing
    assert not rest or rest[1].startswith("Usage: meshlb ")
    assert not [asked for asked in daemon.requests if asked.method != "GET"]


@pytest.mark.parametrize(("typed", "asked", "message", "says"), table("refusals.txt"))
def test_refusals(run: Run, daemon: Daemon, typed: str, asked: str, message: str, says: str) -> None:
    daemon.answers[asked] = Refusal(400, message)
    result = run(*shlex.split(typed))
    *_, last = result.stderr.splitlines()
    assert (result.exit_code, last.startswith(f"meshlb: {says}")) == (1, True), result.stderr


def test_there_are_many() -> None:
    assert len(MISTAKES) >= 80
    assert len({typed for typed, _, _ in MISTAKES}) == len(MISTAKES)


def test_a_daemon_that_is_too_old(run: Run, daemon: Daemon) -> None:
    daemon.answers["GET /version"] = {"ApiVersion": "1.12"}
    result = run("service", "ls")
    assert result.exit_code == 1
    assert result.stderr.startswith("meshlb: cannot talk to the Docker daemon at ")
    assert len(result.stderr.splitlines()) == 1


def test_a_daemon_that_is_not_ours_to_ask(run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may ask every daemon, so the refusal is the kernel's in name alone."""
    monkeypatch.setattr(socket, "socket", NotForUs)
    result = run("service", "ls")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith(
        f"meshlb: permission denied on the Docker daemon's socket {daemon.address}: run this as root, or add "
    )


class NotForUs(socket.socket):
    def connect(self, address: Any) -> None:
        self.close()  # the SDK forgets to
        raise PermissionError(errno.EACCES, "Permission denied")


def test_an_interrupt_is_no_traceback(tmp_path: Path) -> None:
    """A daemon that accepts and never answers; Ctrl-C ends the command as it does docker."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        command = [sys.executable, "-m", "meshlb", "-H", f"unix://{path}", "service", "ls"]
        with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as child:
            listener.settimeout(30)
            connection, _ = listener.accept()
            with connection:
                eventually(lambda: connection.recv(1) != b"", timeout=30, what="a question")
                child.send_signal(signal.SIGINT)
                out, errors = child.communicate(timeout=30)
    assert (child.returncode, out, errors.strip()) == (130, "", "")
