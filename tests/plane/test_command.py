"""The command beside a real agent: what it serves, why a connection fails, reload, upgrade, the live view."""

from __future__ import annotations

import contextlib
import os
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
from agent_process import START, Agent, Backend, connect, free_port, reaches
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


def test_an_upgrade_that_fails_is_told_as_soon_as_it_has(node: Agent, run: Run) -> None:
    assert node.process is not None
    away = node.file.rename(node.file.with_suffix(".away"))  # the new one will not find it
    refused = run("agent", "upgrade")
    assert refused.returncode == 1
    assert refused.stderr == (
        f"meshlb: the new agent has not taken over, the log says why; process {node.process.pid} serves on\n"
    )
    away.rename(node.file)
    upgraded = run("agent", "upgrade")
    assert "has taken over" in upgraded.stdout, upgraded.stderr
    os.kill(int(upgraded.stdout.split()[1]), signal.SIGKILL)


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


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_unit_and_finds_it_safe(tmp_path: Path) -> None:
    path = tmp_path / "meshlb-agent.service"
    path.write_text(unit(Path("/usr/bin/true"), Path("/usr")))
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


@pytest.fixture
def pair(tmp_path: Path, node: Agent) -> Iterator[list[Backend]]:
    """Two backends that the node's first port leads to, in turn."""
    both = [Backend("one"), Backend("two")]
    listed = ", ".join(f'"{each.address}"' for each in both)
    entry = f'[[port]]\npublished = {node.port}\nservice = "s"\nbackends = [{listed}]\n'
    node.write(f'{entry}drain = "200ms"\n')
    eventually(lambda: len(_backends(node)) == 2, timeout=START, what="both backends")
    yield both
    for each in both:
        each.listener.close()


def _backends(node: Agent) -> list[dict[str, str]]:
    return [one for service in node.status()["services"] for one in service["ports"][0]["backends"]]


def _talk(node: Agent, pair: list[Backend], wanted: Backend) -> tuple[socket.socket, socket.socket]:
    """A connection that has come to this backend of the two, both ends."""
    while True:
        client = connect(node.port)
        ready, _, _ = select.select([each.listener for each in pair], [], [], START)
        server, _ = ready[0].accept()
        if ready[0] is wanted.listener:
            return client, server
        client.close()
        server.close()


@pytest.mark.parametrize("verb", ["drain", "pause"])
def test_a_backend_gets_no_new_connections(node: Agent, pair: list[Backend], run: Run, verb: str) -> None:
    one, two = pair
    client, server = _talk(node, pair, one)
    state = {"drain": "drained", "pause": "paused"}[verb]
    with client, server:
        done = run(verb, one.address)
        assert (done.returncode, done.stderr) == (0, "")
        assert f" is {state}: no new connections from this node; those that it has go on" in done.stdout
        assert run("ps", "-q", "--filter", f"state={state}").stdout == f"{one.address}\n"
        assert all(reaches(node.port, two) for _ in range(6))
        refused = run(verb, two.address)
        assert refused.returncode == 1
        assert f"is the last backend of port {node.port}/tcp that is up" in refused.stderr
        _survives(node, one, state)
        client.settimeout(START)
        if verb == "drain":  # its policy has 200 ms of it
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            server.sendall(b"still here")
            assert client.recv(10, socket.MSG_WAITALL) == b"still here"
    assert "takes new connections again" in run("undrain", one.address).stdout
    for end in _talk(node, pair, one):
        end.close()
    assert "broken the handover off" not in node.said()


def _survives(node: Agent, backend: Backend, state: str) -> None:
    """A new table, and the next agent, do not take the order back."""
    node.write(node.file.read_text().replace('service = "s"', 'service = "renamed"'))
    eventually(lambda: "renamed" in node.states(), timeout=START, what="the new table")
    node.heir()
    found = {f"{one['address']}:{one['port']}": one["state"] for one in _backends(node)}
    assert found[backend.address] == state


def test_orders_survive_a_crash_and_end_with_undrain(node: Agent, pair: list[Backend], run: Run) -> None:
    one, two = pair
    assert run("drain", one.address).returncode == 0
    _crash(node)
    assert run("ps", "-q", "--filter", "state=drained").stdout == f"{one.address}\n"
    assert all(reaches(node.port, two) for _ in range(6))
    assert run("undrain", one.address).returncode == 0
    _crash(node)
    assert run("ps", "-q", "--filter", "state=drained").stdout == ""


def _crash(node: Agent) -> None:
    """And the next one starts."""
    assert node.process is not None
    node.process.kill()
    node.process.wait(START)
    node.start()


def test_the_last_backend_is_drained_by_force_alone(node: Agent, run: Run) -> None:
    address = run("ps", "-q").stdout.strip()
    assert run("drain", address).returncode == 1
    assert run("drain", "--force", address).returncode == 0
    with contextlib.suppress(ConnectionResetError), connect(node.port) as client:
        assert client.recv(1) == b""
    assert run("undrain", address).returncode == 0
    with connect(node.port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
