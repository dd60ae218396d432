"""What a shell offers when a name has to be typed, and docker's own flags before the plugin's name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from daemon import Daemon, Refusal, running

from meshlb.cli import agent_view, main
from meshlb.cli.agent_view import AgentView
from meshlb.cli.plugin import completions, words

Offered = Callable[..., list[str]]


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with running(tmp_path) as table:
        table.answers["GET /services"] = [{"Spec": {"Name": name}} for name in ("web", "worker", "db")]
        table.answers["GET /nodes"] = [{"Description": {"Hostname": f"pi{number}"}} for number in (1, 2)]
        monkeypatch.setenv("DOCKER_HOST", table.address)
        yield table


def offered(*typed: str) -> list[str]:
    *before, begun = typed
    found = ShellComplete(main, {}, "meshlb", "").get_completions(list(before), begun)
    return [item.value for item in found if item.type == "plain"]


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        (("service", "rm", ""), ["web", "worker", "db"]),
        (("service", "rm", "db", "w"), ["web", "worker"]),
        (("service", "update", "--image", "x", "d"), ["db"]),
        (("service", "scale", "we"), ["web="]),
        (("service", "logs", "web"), ["web"]),
        (("node", "promote", ""), ["pi1", "pi2"]),
        (("node", "update", "--role", ""), ["worker", "manager"]),
        (("join-token", ""), ["worker", "manager"]),
        (("service", "create", "--balance", "r"), ["roundrobin", "random"]),
        (("service", "create", "--hold", ""), []),
        (("service", "upd"), ["update"]),
    ],
)
def test_names_and_words(daemon: Daemon, typed: tuple[str, ...], names: list[str]) -> None:
    assert offered(*typed) == names


def test_the_flag_names_the_engine(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert offered("-H", daemon.address, "node", "ps", "") == ["pi1", "pi2"]


def test_who_does_not_answer_offers_nothing(daemon: Daemon) -> None:
    daemon.answers["GET /services"] = Refusal(503, "This node is not a swarm manager.")
    assert offered("service", "rm", "") == []
    daemon.answers["GET /services"] = [{"Strange": 1}]
    assert offered("service", "rm", "") == []


def test_backends_are_the_agent_s(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [{"name": "web.1", "task": "t1"}, {"name": "", "task": "t2"}]
    status = {"services": [{"ports": [{"backends": tasks}, {"backends": tasks}]}]}
    monkeypatch.setattr(AgentView, "status", lambda _: status)
    assert offered("drain", "") == ["web.1", "t2"]
    monkeypatch.undo()
    monkeypatch.setenv("MESHLB_AGENT", "127.0.0.1:1")
    assert agent_view.default().url == "http://127.0.0.1:1"
    assert offered("drain", "") == []


def test_docker_completes_the_plugin_s_words(daemon: Daemon) -> None:
    assert list(completions(["meshlb", "node", "pr"], described=False)) == ["promote"]
    assert list(completions(["meshlb", "node", "pr"], described=True)) == ["promote\tMake managers of nodes."]
    assert list(completions(["meshlb", "service", "rm", "d"], described=True)) == ["db"]
    assert "service" in list(completions(["meshlb", ""], described=False))


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["-D", "meshlb", "ps"], ["ps"]),
        (["--debug", "-l", "debug", "-H", "x", "meshlb", "ps", "-D"], ["-H", "x", "ps", "-D"]),
        (["--log-level=info", "--tlsverify", "meshlb", "ps"], ["--tlsverify", "ps"]),
        (["ps"], ["ps"]),
    ],
)
def test_docker_s_own_flags(given: list[str], ours: list[str]) -> None:
    assert words(given) == ours


@pytest.mark.skipif(not shutil.which("docker"), reason="needs docker's command")
def test_docker_hands_over_flags_and_completes(tmp_path: Path, daemon: Daemon) -> None:
    plugin = tmp_path / "cli-plugins/docker-meshlb"
    plugin.parent.mkdir()
    plugin.write_text(f"#!{sys.executable}\nfrom meshlb.cli.plugin import main\nmain()\n")
    plugin.chmod(0o755)
    environment = os.environ | {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": daemon.address}

    def docker(*given: str) -> str:
        return subprocess.run(
            ["docker", *given], env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert docker("-D", "--log-level", "debug", "meshlb", "--version").startswith("meshlb version ")
    assert docker("--config", str(tmp_path), "meshlb", "--version").startswith("meshlb version ")
    assert docker("__completeNoDesc", "meshlb", "service", "rm", "w").splitlines() == ["web", "worker", ":4"]


def test_help_starts_fast() -> None:
    """In CPU time, and in relation to that of an interpreter that does nothing else."""

    def cost(*words: str) -> float:
        began = os.times()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        ended = os.times()
        return ended.children_user + ended.children_system - began.children_user - began.children_system

    nothing = min(cost("-c", "pass") for _ in range(3))
    assert min(cost("-m", "meshlb", "--help") for _ in range(5)) < 4.8 * nothing
