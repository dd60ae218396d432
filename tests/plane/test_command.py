"""The command beside a real agent: what it serves, why a connection fails, reload, upgrade, the live view."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from agent_process import START, Agent, free_port
from mesh import Server, echo
from waiting import eventually

from meshlb.cli.unit import unit

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def node(tmp_path: Path, server: Callable[..., Server]) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    agent.publishes({free_port(): server(echo).port})
    agent.start()
    yield agent
    agent.end_all()


@pytest.fixture
def run(node: Agent, tmp_path: Path) -> Run:
    settings = {"MESHLB_AGENT": f"127.0.0.1:{node.http}", "MESHLB_SOCKET": str(tmp_path / "agent.sock")}

    def run_(*words: str) -> CompletedProcess[str]:
        command = [sys.executable, "-m", "meshlb", *words]
        return subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=START
        )

    return run_


def test_ps_counts_connections(node: Agent, run: Run) -> None:
    with socket.create_connection(("127.0.0.1", node.port), START) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        shown = run("ps", "--format", "{{.Port}} {{.State}} {{.Active}} {{.Connected}} {{.Failed}}")
    assert shown.stdout == f"{node.port}/tcp up 1 1 0\n", shown.stderr


def test_why_tells_a_backend_that_listens_from_one_that_does_not(node: Agent, run: Run) -> None:
    good = run("why", str(node.port))
    assert good.returncode == 0, good.stdout
    assert "it answers in " in good.stdout
    nobody = free_port()
    node.publishes({node.port: nobody})
    eventually(lambda: str(nobody) in run("ps", "-q").stdout, timeout=START, what="the new backend")
    bad = run("why", f"127.0.0.1:{node.port}")
    assert bad.returncode == 1
    assert "a connection to it: Connection refused" in bad.stdout
    assert "BAD a connection to 127.0.0.1:" in re.sub(r"\x1b\[\d*m", "", bad.stdout)


def test_reload_and_upgrade(node: Agent, run: Run) -> None:
    assert node.process is not None
    before = node.process.pid
    assert run("agent", "reload").stdout == f"The agent (process {before}) looks at everything anew.\n"
    upgraded = run("agent", "upgrade")
    match = re.fullmatch(
        rf"Process (\d+) has taken over; {before} ends with its last connection\.\n", upgraded.stdout
    )
    assert match, upgraded.stderr
    try:
        assert node.process.wait(START) == 0
        assert f"{node.port}/tcp" in run("ps").stdout
    finally:
        os.kill(int(match[1]), signal.SIGKILL)
        eventually(lambda: _is_over(match[1]), timeout=START, what="the new agent to be gone")


def _is_over(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    return True


def test_no_agent_runs(tmp_path: Path, node: Agent, run: Run) -> None:
    node.end_all()
    for verb in ("reload", "upgrade"):
        refused = run("agent", verb)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"meshlb: no agent runs on this node ({tmp_path}/agent.sock): ")


def test_top_on_a_terminal(node: Agent) -> None:
    """Keys change the view and end it, and the terminal is then as it was."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "meshlb", "top", "--delay", "0.2", "--agent", f"127.0.0.1:{node.http}"]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave) as child:
        os.close(slave)
        try:
            shown = _until(master, "q quit")
            assert shown.startswith("\x1b[?1049h\x1b[?25l")
            assert f"{node.port}/tcp" in shown
            os.write(master, b"s")
            assert f"{node.port}/tcp" not in _until(master, "SERVICE   STATE")
            os.write(master, b"q")
            assert _until(master, "\x1b[?1049l").endswith("\x1b[?25h\x1b[?1049l")
            assert child.wait(START) == 0
        finally:
            child.kill()
    os.close(master)


def _until(master: int, mark: str) -> str:
    """What is written from the last frame's beginning to a mark."""
    text = ""
    while mark not in text:
        ready, _, _ = select.select([master], [], [], START)
        assert ready, text
        text += os.read(master, 65536).decode()
        if text.count("\x1b[H") > 1:
            text = text[text.rindex("\x1b[H") :]
    return text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_unit_and_finds_it_safe(tmp_path: Path) -> None:
    path = tmp_path / "meshlb-agent.service"
    path.write_text(unit(Path("/usr/bin/true")))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    ours = [line for line in verified.stderr.splitlines() if "meshlb" in line]
    assert ours == []
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.search(r"Overall exposure level for meshlb-agent.service: (\d\.\d)", judged.stdout)
    assert match, judged.stderr
    assert float(match[1]) <= 3.5
