"""`meshlb ps`, `top`, `why`, `doctor`: the rows, the screens and the sentences, from what an agent says."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from meshlb import __version__
from meshlb.cli import agent_view, doctor, main, mesh
from meshlb.cli.agent import status_lines
from meshlb.cli.agent_view import AgentError, AgentView
from meshlb.cli.doctor import agent_findings, engine, kernel
from meshlb.cli.mesh_rows import Look, rows, summed
from meshlb.cli.probe import Finding, lines
from meshlb.cli.top import screen
from meshlb.cli.unit import agent_program, unit
from meshlb.cli.why import target
from meshlb.errors import ConfigError, EngineError


def backend(number: int, state: str = "up") -> dict[str, Any]:
    return {
        "address": f"10.0.0.{number}",
        "port": 8000,
        "task": f"task{number}",
        "name": f"web.{number}",
        "node": f"192.0.2.{number}",
        "state": state,
        "weight": 1,
    }


STATUS: dict[str, Any] = {
    "version": __version__,
    "draining": False,
    "source": {"kind": "static", "connected": True, "problem": ""},
    "channel": {"peers": 2, "connected": 1, "suspected": ["192.0.2.9"], "dead": [], "problem": ""},
    "ports": [
        {"port": "80/tcp", "service": "web", "state": "serving", "reason": ""},
        {"port": "443/tcp", "service": "web", "state": "failed", "reason": "nginx (process 7) holds it"},
        {"port": "53/udp", "service": "dns", "state": "redirected", "reason": ""},
    ],
    "services": [
        {
            "name": "web",
            "ports": [
                {"port": "80/tcp", "backends": [backend(1), backend(2, "draining")]},
                {"port": "443/tcp", "backends": [backend(1)]},
            ],
        },
        {"name": "dns", "ports": [{"port": "53/udp", "backends": []}]},
    ],
    "nodes": [{"address": "192.0.2.1", "name": "node1"}],
    "counters": {"open": 3, "accepted": 9, "failed": 1},
    "problems": ["service web: label meshlb.foo: unknown key"],
}


def counts(connected: int, aside: bool = False) -> dict[str, Any]:
    of = {"port": "80/tcp", "address": "10.0.0.1", "backend_port": 8000, "task": "task1"}
    return {"backends": [of | {"active": 2, "connected": connected, "failed": 1, "aside": aside}]}


LOOK = Look(STATUS, counts(10), 100.0)


def column(found: list[dict[str, str]], name: str) -> list[str]:
    return [row[name] for row in found]


def test_rows() -> None:
    found = rows(LOOK)
    assert column(found, "Port") == ["53/udp", "80/tcp", "80/tcp", "443/tcp"]
    assert column(found, "State") == ["no backend", "up", "draining", "not served"]
    assert column(found, "Node") == ["", "node1", "192.0.2.2", "node1"]
    assert column(found, "Connected") == ["", "10", "", ""]
    assert column(found, "Reason")[3] == "nginx (process 7) holds it"
    assert column(found, "Rate") == ["", "", "", ""]


def test_rates_need_two_looks_and_never_go_below_nothing() -> None:
    later = Look(STATUS, counts(30, aside=True), 104.0)
    assert column(rows(later, LOOK), "Rate") == ["", "5.0/s", "", ""]
    assert column(rows(later, LOOK), "State")[1] == "aside"
    replaced = Look(STATUS, counts(0), 104.0)
    assert column(rows(replaced, LOOK), "Rate")[1] == "0.0/s"


def test_a_port_without_a_service_is_a_row() -> None:
    gone = STATUS | {"services": []}
    assert column(rows(Look(gone, {})), "Port") == ["53/udp", "80/tcp", "443/tcp"]


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    six = backend(1) | {"address": "fd00::1"}
    status = STATUS | {"services": [{"name": "web", "ports": [{"port": "80/tcp", "backends": [six]}]}]}
    assert "[fd00::1]:8000" in column(rows(Look(status, {})), "Backend")


def test_sums() -> None:
    by_service = {
        row["Service"]: row for row in summed(rows(Look(STATUS, counts(30), 104.0), LOOK), "Service")
    }
    assert by_service["web"]["State"] == "1/3 up"
    assert (by_service["web"]["Connected"], by_service["web"]["Rate"]) == ("30", "5.0/s")


def test_screen() -> None:
    shown = screen(LOOK, None, "backends", "Port", (120, 30))
    assert shown[0].startswith(
        f"meshlb {__version__}: 3 ports (1 not served), 3 connections, 9 since the start; "
    )
    assert shown[2].split() == [
        "PORT",
        "SERVICE",
        "BACKEND",
        "TASK",
        "NODE",
        "STATE",
        "ACTIVE",
        "RATE",
        "CONNECTED",
        "FAILED",
    ]
    assert len(shown) == 8
    assert "q quit" in shown[-1]


def test_screen_sorts_and_never_scrolls() -> None:
    busy = screen(LOOK, None, "backends", "Active", (120, 30))
    assert busy[3].split()[0] == "80/tcp"
    small = screen(LOOK, None, "backends", "Port", (40, 6))
    assert len(small) == 6
    assert small[4] == "… 3 more"
    assert max(map(len, small)) < 40
    assert screen(LOOK, None, "nodes", "Port", (120, 30))[2].split()[0] == "NODE"


class Agent:
    """An agent's HTTP: whatever `pages` say."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {"/api/v1/status": STATUS, "/api/v1/counts": counts(10)}
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = agent.pages.get(self.path)
                body = page if isinstance(page, bytes) else json.dumps(page).encode()
                self.send_response(200 if page is not None else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def run(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    nowhere = "tcp://127.0.0.1:1"
    monkeypatch.setattr(mesh, "MOMENT", 0.0)
    environment = {
        "MESHLB_AGENT": agent.address,
        "NO_COLOR": "1",
        "DOCKER_HOST": nowhere,
        "HOME": str(tmp_path),
    }
    return lambda *words: CliRunner().invoke(main, words, env=environment)


def test_ps(run: Callable[..., Result]) -> None:
    shown = run("ps")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[2].split() == (
        ["80/tcp", "web", "10.0.0.1:8000", "web.1", "node1", "up", "2", "0.0/s", "10", "1"]
    )
    assert shown.stderr == "meshlb: service web: label meshlb.foo: unknown key\n"
    assert run("ps", "-q", "--filter", "port=80").stdout == "10.0.0.1:8000\n10.0.0.2:8000\n"
    both = ("--filter", "state=up", "--filter", "state=draining", "--filter", "service=web")
    assert run("ps", "--format", "{{.Task}} {{.Rate}}|", *both).stdout == "web.1 0.0/s|\nweb.2 |\n"
    assert json.loads(run("ps", "--format", "json").stdout.splitlines()[1])["Backend"] == "10.0.0.1:8000"


def test_ps_waits_for_a_rate_alone(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "MOMENT", 3600.0)
    for words in (["-q"], ["--format", "{{.Port}}"], ["--format", "table {{.Port}}\t{{.State}}"]):
        assert run("ps", *words).exit_code == 0
    refused = run("ps", "--format", "{{.Rate}} {{.Foo}}")
    assert refused.stderr.startswith('meshlb: --format: "Foo" is not one of Port, Service')


def test_ps_of_what_is_not_there(run: Callable[..., Result], agent: Agent) -> None:
    bad = run("ps", "--filter", "color=red")
    assert (bad.exit_code, '"color" is not one of port, service' in bad.stderr) == (1, True)
    answers: list[tuple[Any, str]] = [
        (None, "that knows /api/v1/status"),
        (b"x", "is not a"),
        ([], "is not a"),
    ]
    for answer, says in answers:
        agent.pages = {"/api/v1/status": answer}
        result = run("ps")
        assert (result.exit_code, says in result.stderr) == (1, True), result.stderr
    gone = run("ps", "--agent", "127.0.0.1:1")
    assert gone.stderr.startswith(
        "meshlb: no agent answers at http://127.0.0.1:1 (Connection refused): is it "
    )
    assert run("ps", "--agent", "nowhere").exit_code == 125


def test_top_without_a_terminal_prints_once(run: Callable[..., Result]) -> None:
    shown = run("top", "--view", "services")
    assert [line.split()[0] for line in shown.stdout.splitlines() if line][1:] == ["SERVICE", "dns", "web"]


def test_agent_status(run: Callable[..., Result]) -> None:
    assert run("agent", "status").stdout == "\n".join(status_lines(STATUS)) + "\n"
    assert status_lines(STATUS) == [
        f"Release: {__version__}",
        "Source: static",
        "Ports: 3 (1 failed, 1 redirected, 1 serving)",
        "Connections: 3 open, 9 accepted, 1 failed",
        "Other agents: 1 of 2 heard",
        "Problems:",
        " service web: label meshlb.foo: unknown key",
    ]
    assert (
        run("agent", "status", "--format", "{{.version}} {{.counters.open}}").stdout == f"{__version__} 3\n"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80", ("127.0.0.1", 80, "tcp")),
        (":443", ("127.0.0.1", 443, "tcp")),
        ("node1:53/udp", ("node1", 53, "udp")),
        ("[::1]:80", ("::1", 80, "tcp")),
    ],
)
def test_targets(text: str, found: tuple[str, int, str]) -> None:
    assert target(text) == found


@pytest.mark.parametrize("text", ["", "0", "65536", "a:b", "::1:80", "80/sctp", "http://x:80"])
def test_bad_targets(text: str) -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        target(text)


def test_doctor(run: Callable[..., Result]) -> None:
    shown = run("doctor")
    assert shown.exit_code == 1
    assert "ok  kernel " in shown.stdout
    assert "BAD cannot connect to the Docker daemon at tcp://" in shown.stdout
    assert "BAD port 443/tcp of service web: nginx (process 7) holds it" in shown.stdout
    assert "need attention" in shown.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.2p1\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_what_is_no_agent_is_told(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(said)
                connection.recv(1000)

        other = threading.Thread(target=speak)
        other.start()
        with pytest.raises(AgentError, match="is not a meshlb-agent"):
            AgentView(f"http://127.0.0.1:{listener.getsockname()[1]}").status()
        other.join()


def test_a_wrong_address_is_told_without_its_password() -> None:
    with pytest.raises(ConfigError, match='"node2" is not ADDRESS:PORT'):
        agent_view._view("https://admin:secret@node2")


def test_doctor_without_its_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._mtu_of("192.0.2.1") == 0
    folder = tmp_path / "swarm/certificates"
    folder.mkdir(parents=True)
    (folder / "swarm-node.crt").write_text("x")
    info = {"Swarm": {"LocalNodeState": "active"}, "DockerRootDir": str(tmp_path)}
    (found,) = doctor._certificate(info)
    assert (found.good, found.advice) == (None, "apt-get install openssl")


def bad(findings: Iterator[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.good is False]


def test_doctor_s_findings(tmp_path: Path) -> None:
    assert bad(kernel("4.9.0", tmp_path, tmp_path)) == ["kernel 4.9.0"]
    assert bad(kernel("6.1.0-18-amd64", tmp_path, tmp_path)) == []
    assert bad(kernel("5.10.0-30-amd64", tmp_path, tmp_path)) == []
    (tmp_path / "ip_vs").mkdir()
    (cannot,) = bad(kernel("5.10.0-30-amd64", tmp_path, tmp_path))
    assert cannot.endswith("this kernel cannot redirect them to agents")
    assert bad(kernel("6.1.0-18-amd64", tmp_path, tmp_path)) == []
    assert bad(engine(EngineError("no daemon"))) == ["no daemon"]
    swarm = {"Swarm": {"LocalNodeState": "active"}}
    assert len(bad(engine(swarm | {"SecurityOptions": ["name=seccomp", "name=rootless"]}))) == 1
    assert len(bad(engine(swarm | {"OperatingSystem": "Docker Desktop"}))) == 1
    assert bad(engine({"Swarm": {"LocalNodeState": "locked"}})) == ["the node's place in a swarm is: locked"]
    old = engine({"Swarm": {"LocalNodeState": "active"}, "SystemTime": "2001-01-01T00:00:00.123456789Z"})
    assert bad(old)[0].startswith("the engine's clock and ours differ by ")
    assert bad(agent_findings(STATUS)) == [
        "2 ports are served, 1 is not",
        "port 443/tcp of service web: nginx (process 7) holds it",
        "agents heard on other nodes: 1 of 2",
        "nodes that are silent: 192.0.2.9",
    ]
    assert bad(agent_findings(STATUS | {"ports": [], "channel": None})) == []


def test_colours_are_for_those_who_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding(False, "x", "do y")]
    monkeypatch.setenv("NO_COLOR", "1")
    assert lines(findings) == ["BAD x", "      → do y"]
    monkeypatch.delenv("NO_COLOR")
    assert lines(findings)[0].startswith("\x1b[31mBAD ")


def test_the_unit_starts_the_agent_that_is_installed() -> None:
    text = unit(Path("/srv/meshlb/bin/meshlb-agent"), Path("/usr"))
    assert "\nExecStart=/srv/meshlb/bin/meshlb-agent --replace\n" in text
    assert "/opt/meshlb" not in text
    with pytest.raises(
        ConfigError, match="/home/me/venv/bin/meshlb-agent is its owner's: install meshlb elsewhere"
    ):
        unit(Path("/home/me/venv/bin/meshlb-agent"), Path("/usr"))
    with pytest.raises(
        ConfigError, match=r"/home/me/.pyenv/3 is its owner's: make meshlb's environment with a Python"
    ):
        unit(Path("/srv/meshlb/bin/meshlb-agent"), Path("/home/me/.pyenv/3"))


def test_dockers_files_may_be_in_home_directories_and_stay_as_they_are() -> None:
    assert "\nProtectHome=read-only\n" in unit(Path("/root/venv/bin/meshlb-agent"), Path("/root/.pyenv/3"))


@pytest.mark.parametrize("place", ["beside the command", "beside Python"])
def test_the_program_is_where_pip_has_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """pip without a virtual environment has /usr/bin/python3, and puts programs into /usr/local/bin."""
    python, local = tmp_path / "bin", tmp_path / "local"
    for each in (python, local):
        each.mkdir()
    (tmp_path / "meshlb").symlink_to(local / "meshlb")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "meshlb"), "agent", "install"])
    monkeypatch.setattr(sys, "executable", str(python / "python3"))
    with pytest.raises(ConfigError, match=rf"no meshlb-agent in {local} or {python}: install meshlb"):
        agent_program()
    wanted = (local if place == "beside the command" else python) / "meshlb-agent"
    wanted.touch()
    assert agent_program() == wanted


@pytest.mark.parametrize("there", [True, False])
def test_the_unit_names_no_group_that_is_not_there(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    def ask(name: str) -> None:
        assert name == "docker"
        if not there:
            raise KeyError(name)

    monkeypatch.setattr("meshlb.cli.unit.grp.getgrnam", ask)
    assert ("\nGroup=docker\n" in unit(Path("/srv/a"), Path("/usr"))) == there
