"""The whole agent as a process, with a static file and a real plane on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import START, Agent, Backend, connect, free_port, listens, reaches
from waiting import eventually


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def make(**options: Any) -> Agent:
        agents.append(Agent(tmp_path, **options))
        return agents[-1]

    yield make
    for one in agents:
        if one.process and one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def backend() -> Iterator[Callable[[str], Backend]]:
    backends: list[Backend] = []

    def make(name: str) -> Backend:
        backends.append(Backend(name))
        return backends[-1]

    yield make
    for one in backends:
        one.listener.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_life_with_a_file(
    agent: Callable[..., Agent], backend: Callable[[str], Backend], loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    one, two = backend("one"), backend("two")
    mesh, port, other = agent(loop=loop), free_port(), free_port()
    mesh.publish({port: one})
    mesh.start()
    assert reaches(port, one)

    # A new file is taken on SIGHUP; the connection that is open goes on with the backend it has.
    old = connect(port)
    old_end = one.accept()
    mesh.publish({port: two, other: one})
    mesh.signal(signal.SIGHUP)
    eventually(lambda: set(mesh.states()) == {"one", "two"}, timeout=START, what="the new file")
    assert reaches(port, two)
    assert reaches(other, one)
    assert old.recv(3) == b"one"
    old.sendall(b"still here")
    assert old_end.recv(100) == b"still here"

    # A bad one is refused with file, line and reason; what was served is served.
    mesh.write("[[port]]\npublished = 99999\nbackends = []\n")
    mesh.signal(signal.SIGHUP)
    eventually(lambda: mesh.status()["source"]["problem"], timeout=START, what="the refusal")
    sentence = f"{mesh.file}:2: published = 99999: not a port number from 1 to 65535"
    assert mesh.status()["source"]["problem"] == sentence
    assert mesh.status("/healthz")["problems"] == [sentence]
    eventually(lambda: sentence in mesh.said(), timeout=START, what="it in the log")
    assert reaches(port, two)

    # A mended one is noticed without a signal; a port that is gone refuses, and its connection goes on.
    mesh.publish({other: one})
    eventually(lambda: set(mesh.states()) == {"one"}, timeout=START, what="the mended file")
    assert mesh.status()["source"]["problem"] == ""
    eventually(lambda: not listens(port), timeout=START, what="the port to close")
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    old_end.sendall(b"echo")
    assert old.recv(100) == b"echo"

    # SIGTERM: no new connection, the open one finishes, and then the agent ends well.
    mesh.signal(signal.SIGTERM)
    eventually(lambda: mesh.status()["draining"], timeout=START, what="the drain")
    eventually(lambda: not listens(other), timeout=START, what="the other port to close")
    with pytest.raises(ConnectionRefusedError):
        connect(other)
    old.sendall(b"last words")
    old.shutdown(socket.SHUT_WR)
    assert old_end.recv(100) == b"last words"
    assert old_end.recv(100) == b""
    old_end.sendall(b"bye")
    old_end.close()
    assert old.recv(100) == b"bye"
    old.close()
    assert mesh.wait() == 0
    assert "draining for at most 30 seconds: 1 connection is open" in mesh.said()
    assert "Traceback" not in mesh.said()


def test_a_second_signal_cuts_what_is_open(
    agent: Callable[..., Agent], backend: Callable[[str], Backend]
) -> None:
    one, port = backend("one"), free_port()
    mesh = agent()
    mesh.publish({port: one})
    mesh.start("--drain", "3600")
    with connect(port) as client, one.accept() as end:
        assert client.recv(3) == b"one"
        mesh.signal(signal.SIGTERM)
        eventually(lambda: mesh.status()["draining"], timeout=START, what="the drain")
        mesh.signal(signal.SIGINT)
        assert mesh.wait() == 0
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        end.settimeout(START)
        with pytest.raises(ConnectionResetError):
            end.recv(1)


def test_a_port_that_another_process_holds_fails_alone_and_is_served_once_free(
    agent: Callable[..., Agent], backend: Callable[[str], Backend]
) -> None:
    one, two, port = backend("one"), backend("two"), free_port()
    with socket.create_server(("127.0.0.1", 0)) as holder:
        held = holder.getsockname()[1]
        mesh = agent()
        mesh.publish({held: one, port: two})
        mesh.start()
        assert mesh.states() == {"one": "failed", "two": "serving"}
        assert mesh.reason("one").startswith(f"port {held}/tcp is held by ")
        assert [failed["port"] for failed in mesh.status("/healthz")["failed"]] == [f"{held}/tcp"]
        told = f"port {held}/tcp of service one: failed: "
        eventually(lambda: told in mesh.said(), timeout=START, what="it in the log")
        assert reaches(port, two)
    eventually(lambda: mesh.states()["one"] == "serving", timeout=START, what="the port to be served")
    assert reaches(held, one)
    mesh.signal(signal.SIGTERM)
    assert mesh.wait() == 0


def low_port() -> int:
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if os.geteuid() != 0 or lowest <= 1 or not Path("/usr/bin/setpriv").exists():
        pytest.skip("needs root, setpriv (apt-get install util-linux), and ports that need a capability")
    for port in range(lowest - 1, 0, -1):
        with socket.socket(socket.AF_INET6) as probe:
            if probe.connect_ex(("::1", port)) != 0:
                return port
    raise AssertionError("every low port is in use")


def test_a_low_port_without_the_capability_fails_alone(
    agent: Callable[..., Agent], backend: Callable[[str], Backend]
) -> None:
    low, port, one, two = low_port(), free_port(), backend("one"), backend("two")
    mesh = agent(prefix=("setpriv", "--bounding-set=-net_bind_service"))
    mesh.publish({low: one, port: two})
    mesh.start()
    assert mesh.states() == {"one": "failed", "two": "serving"}
    assert "CAP_NET_BIND_SERVICE" in mesh.reason("one").upper()
    assert reaches(port, two)


def test_two_entries_with_one_port_are_a_problem_and_the_first_is_served(
    agent: Callable[..., Agent], backend: Callable[[str], Backend]
) -> None:
    one, two, port = backend("one"), backend("two"), free_port()
    mesh = agent()
    entry = '[[port]]\npublished = {}\nservice = "{}"\nbackends = ["{}"]\n'
    mesh.write(entry.format(port, "one", one.address) + entry.format(port, "two", two.address))
    mesh.start()
    assert mesh.states() == {"one": "serving"}
    assert mesh.status()["problems"] == [
        f"service two: port {port}/tcp is already published by service one; publish another port"
    ]
    assert reaches(port, one)


def test_a_second_agent_says_that_there_is_one(
    agent: Callable[..., Agent], backend: Callable[[str], Backend]
) -> None:
    mesh = agent()
    mesh.publish({free_port(): backend("one")})
    mesh.start()
    again = subprocess.run(mesh.command, capture_output=True, text=True, timeout=START, check=False)
    assert again.returncode == 1
    assert mesh.process is not None
    assert again.stderr.splitlines()[-1] == (
        f"meshlb-agent: an agent runs on this node already, as process {mesh.process.pid}: "
        "start this one with --replace to take over from it without losing a connection"
    )
    alone = [*mesh.command, "--socket", "off"]
    again = subprocess.run(alone, capture_output=True, text=True, timeout=START, check=False)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith(
        f"meshlb-agent: --http 127.0.0.1:{mesh.http}: cannot listen: another process (a second meshlb-agent?)"
    )


def test_systemd_is_told(
    agent: Callable[..., Agent],
    backend: Callable[[str], Backend],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(START)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        mesh, port = agent(), free_port()
        mesh.publish({port: backend("one")})
        mesh.start()
        assert {systemd.recv(100) for _ in range(2)} == {
            b"FDSTORE=1\nFDNAME=http\nFDPOLL=0",
            f"FDSTORE=1\nFDNAME=tcp.{port}\nFDPOLL=0".encode(),
        }
        assert systemd.recv(100) == b"READY=1"
        mesh.signal(signal.SIGHUP)
        assert systemd.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert systemd.recv(100) == b"READY=1"
        mesh.signal(signal.SIGTERM)
        assert systemd.recv(100) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000"
        assert systemd.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=http"
        assert systemd.recv(100) == b"BARRIER=1"
        assert systemd.recv(100) == f"FDSTOREREMOVE=1\nFDNAME=tcp.{port}".encode()
        assert systemd.recv(100) == b"BARRIER=1"
        assert mesh.wait() == 0


def test_json_logs_are_json_throughout(
    agent: Callable[..., Agent], backend: Callable[[str], Backend]
) -> None:
    mesh = agent()
    mesh.publish({free_port(): backend("one")})
    mesh.start("--log-format", "json")
    mesh.signal(signal.SIGTERM)
    assert mesh.wait() == 0
    lines = [json.loads(line) for line in mesh.said().splitlines()]
    assert all({"ts", "level", "message"} <= line.keys() for line in lines)
    messages = [line["message"] for line in lines]
    assert any(message.startswith("meshlb-agent ") and message.endswith("started") for message in messages)
    assert messages[-1] == "meshlb-agent ended"
