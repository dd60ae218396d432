"""The verbs of swarms and nodes ask and print what docker's own client does."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from daemon import Daemon, Refusal, running
from docker_cluster_words import KEY, RECORDED, answers, changes, lines
from docker_json import essence

from meshlb.cli import main

Run = Callable[..., Result]
DOCKER: dict[str, Any] = json.loads(RECORDED.read_text())


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as table:
        table.answers |= answers()
        yield table


@pytest.fixture
def run(daemon: Daemon, tmp_path: Path) -> Run:
    environment = {"DOCKER_HOST": daemon.address, "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    return lambda *words: CliRunner().invoke(main, words, env=environment, input=KEY)


def in_docker_s_words(text: str) -> str:
    """What meshlb prints, with docker's name for the command; empty lines and birthdays do not count."""
    text = re.sub(r"\d+ years ago", "… years ago", text)
    text = re.sub(r"meshlb (join|unlock|join-token)\b", r"docker swarm \1", text)
    return "\n".join(line for line in text.splitlines() if line)


@pytest.mark.parametrize("line", lines())
def test_as_docker(run: Run, daemon: Daemon, line: str) -> None:
    words = shlex.split(line)
    result = run(*(words[1:] if words[0] == "swarm" else words))
    expected = DOCKER[line]
    assert result.exit_code == expected["code"], result.stderr
    if not line.startswith("swarm init"):  # where docker 28 leaves out the line that joins a worker
        assert in_docker_s_words(result.stdout) == in_docker_s_words(expected["out"])
    assert said(changes(daemon)) == said(expected["changes"])


def said(requests: list[Any]) -> Any:
    """The requests without what the engine takes for absent: zeros, and `active`, which nodes are anyway."""
    text = json.dumps([essence(request) for request in requests])
    plain = json.loads(
        text, object_hook=lambda found: {k: v for k, v in found.items() if v not in (0, False)}
    )
    if plain and plain[0][1] == "/swarm/init":
        plain[0][2].setdefault("Availability", "active")
    return essence(essence(plain))


def test_what_is_recorded_is_what_is_tested() -> None:
    assert sorted(DOCKER) == sorted(lines())


def test_a_locked_manager_is_unlocked_by_the_key_on_standard_input(run: Run, daemon: Daemon) -> None:
    daemon.answers["GET /info"]["Swarm"]["LocalNodeState"] = "locked"
    assert run("unlock").exit_code == 0
    assert daemon.asked("POST", "/swarm/unlock")[0].body == {"UnlockKey": KEY.strip()}
    daemon.answers["POST /swarm/unlock"] = Refusal(500, "swarm could not be unlocked: invalid key provided")
    wrong = run("unlock")
    assert (wrong.exit_code, wrong.stderr) == (1, "meshlb: this is not the key that unlocks this manager\n")


def test_the_unlock_key_is_rotated_only_where_managers_lock_themselves(run: Run, daemon: Daemon) -> None:
    daemon.answers["GET /swarm"]["Spec"]["EncryptionConfig"]["AutoLockManagers"] = True
    assert run("unlock-key", "--rotate", "-q").stdout == KEY
    (asked,) = daemon.asked("POST", "/swarm/update")
    assert asked.query == {"version": "9", "rotateManagerUnlockKey": "true"}


def test_a_node_that_is_as_it_should_be_is_left_alone(run: Run, daemon: Daemon) -> None:
    assert run("node", "promote", "node2").stdout == "Node node2 is already a manager.\n"
    assert run("node", "demote", "node1").stdout == "Node node1 is already a worker.\n"
    assert changes(daemon) == []


def test_one_node_s_failure_is_not_the_others(run: Run) -> None:
    result = run("node", "rm", "node2", "node1")
    assert (result.exit_code, result.stdout) == (1, "node1\n")
    assert result.stderr == (
        "meshlb: node nodeid2 is not down: have it leave with `meshlb leave` first, or use --force\n"
    )


def test_the_root_is_rotated_until_all_nodes_have_it(run: Run, daemon: Daemon) -> None:
    swarm = daemon.answers["GET /swarm"]
    looks = iter((True, True, False))
    daemon.answers["GET /swarm"] = lambda _: swarm | {"RootRotationInProgress": next(looks, False)}
    result = run("ca", "--rotate")
    assert (result.exit_code, result.stdout) == (0, "PEM\n")
    assert result.stderr == "rotated TLS certificates: 2/2 nodes, rotated CA certificates: 2/2 nodes\n"


def test_a_root_from_a_file(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
    (tmp_path / "ca").write_text(pem)
    assert run("ca", "--rotate", "-d", "--ca-cert", str(tmp_path / "ca")).exit_code == 0
    assert daemon.asked("POST", "/swarm/update")[0].body["CAConfig"]["SigningCACert"] == pem


def test_the_swarm_itself(run: Run) -> None:
    assert json.loads(run("inspect").stdout)[0]["JoinTokens"]["Worker"] == "SWMTKN-w"
    assert run("inspect", "-f", "{{.Spec.Orchestration.TaskHistoryRetentionLimit}}").stdout == "5\n"
