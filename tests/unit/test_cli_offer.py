"""What `init` and `join` ask on a terminal, and say elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import docker_cluster_words
import pytest
from click.testing import CliRunner, Result
from daemon import Daemon, Refusal, Request, running

from meshlb.cli import main, offer
from meshlb.cli.agent import install
from meshlb.errors import MeshError
from meshlb.handover.agent_socket import claim

Run = Callable[..., Result]

LINE = "\nTo have this node serve published ports: {}meshlb agent install\n"
QUESTION = "Install the agent, so that this node serves published ports? [Y/n]: "
SEVERAL = (
    "could not choose an IP address to advertise since this system has multiple addresses on {} - specify "
    "one with --advertise-addr"
)
TWO = {
    "different interfaces (10.0.0.1 on eth0 and 10.0.0.2 on eth1)": ("10.0.0.1 on eth0", "10.0.0.2 on eth1"),
    "interface eth0 (10.0.0.1 and 10.0.0.2)": ("10.0.0.1 on eth0", "10.0.0.2 on eth0"),
}
JOIN = ("join", "--token", "x", "10.77.0.1:2377")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as table:
        table.answers |= docker_cluster_words.answers() | {"POST /swarm/join": b""}
        yield table


@pytest.fixture
def run(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As root, where no agent is."""
    monkeypatch.setattr(offer, "UNIT", tmp_path / "unit")
    monkeypatch.setenv("MESHLB_SOCKET", str(tmp_path / "run" / "agent.sock"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    environment = {"DOCKER_HOST": daemon.address, "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    return lambda *words, typed="": CliRunner().invoke(main, words, env=environment, input=typed)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer, "on_terminal", lambda: True)


def several(daemon: Daemon, text: str) -> None:
    """The engine needs to be told which address."""

    def answer(request: Request) -> object:
        return "newnode" if request.body["AdvertiseAddr"] else Refusal(400, SEVERAL.format(text))

    daemon.answers["POST /swarm/init"] = answer


@pytest.mark.parametrize("words", [("init",), JOIN])
def test_a_line_where_nobody_can_be_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str]
) -> None:
    assert (run(*words).exit_code, run(*words).stderr) == (0, LINE.format(""))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert run(*words).stderr == LINE.format("sudo ")


@pytest.mark.parametrize("how", ["installed", "running"])
def test_nothing_where_an_agent_is(run: Run, tmp_path: Path, how: str) -> None:
    if how == "installed":
        (tmp_path / "unit").touch()
        assert run(*JOIN).stderr == ""
    else:
        place = claim(tmp_path / "run" / "agent.sock")
        assert run(*JOIN).stderr == ""
        place.close()


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("typed", "installed"), [("\n", True), ("y\n", True), ("n\n", False), ("", False)])
def test_a_question_on_a_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, typed: str, installed: bool
) -> None:
    done: list[bool] = []
    monkeypatch.setattr(install, "callback", lambda only_print, no_start: done.append(not no_start))
    result = run(*JOIN, typed=typed)
    assert QUESTION in result.stdout
    assert (result.exit_code, bool(done)) == (0, installed)


@pytest.mark.usefixtures("terminal")
def test_an_agent_that_cannot_be_installed_undoes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: bool) -> None:
        raise MeshError("there is no systemctl here")

    monkeypatch.setattr(install, "callback", fail)
    result = run(*JOIN, typed="y\n")
    assert (result.exit_code, result.stderr) == (0, "meshlb: there is no systemctl here\n")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("text", TWO)
@pytest.mark.parametrize(("typed", "sent"), [("2", "10.0.0.2"), ("eth7", "eth7")])
def test_an_address_is_asked_for_on_a_terminal(
    run: Run, daemon: Daemon, text: str, typed: str, sent: str
) -> None:
    several(daemon, text)
    result = run("init", typed=f"{typed}\nn\n")
    assert result.exit_code == 0, result.stderr
    assert f"  1  {TWO[text][0]}\n  2  {TWO[text][1]}\n" in result.stdout
    assert [asked.body["AdvertiseAddr"] for asked in daemon.asked("POST", "/swarm/init")] == ["", sent]


def test_addresses_are_listed_where_nobody_can_be_asked(run: Run, daemon: Daemon) -> None:
    several(daemon, next(iter(TWO)))
    result = run("init")
    assert result.exit_code == 1
    assert "this machine has several addresses (10.0.0.1 on eth0 and 10.0.0.2 on eth1): say" in result.stderr
    assert len(daemon.asked("POST", "/swarm/init")) == 1
