"""`meshlb service`: policies as labels, switches with values, registry logins, the way back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from daemon import Daemon, running
from docker_words import DOCKER, ID, answers, sent

from meshlb.cli import main

Run = Callable[..., Result]
UPDATE = f"/services/{ID}/update"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as table:
        table.answers |= answers(DOCKER["full"])
        yield table


@pytest.fixture
def run(daemon: Daemon, tmp_path: Path) -> Run:
    environment = {"DOCKER_HOST": daemon.address, "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    return lambda *words: CliRunner().invoke(main, ["service", *words], env=environment)


def labels(daemon: Daemon) -> dict[str, Any]:
    return dict(sent(daemon)["Labels"])


def test_a_policy_of_one_port_is_a_label(run: Run, daemon: Daemon) -> None:
    flags = ("--balance", "leastconn", "--policy", "443:balance=source", "--policy", "443:hold=30s")
    assert run("create", "-d", "--no-resolve-image", *flags, "web").exit_code == 0
    assert labels(daemon) == {
        "meshlb.balance": "leastconn",
        "meshlb.port.443.balance": "source",
        "meshlb.port.443.hold": "30s",
    }


def test_a_policy_gets_its_default_again(run: Run, daemon: Daemon) -> None:
    service = daemon.answers["GET /services/web"]
    own = {"meshlb.balance": "source", "meshlb.port.80.hold": "3s", "a": "1"}
    daemon.answers["GET /services/web"] = service | {"Spec": service["Spec"] | {"Labels": own}}
    flags = ("--policy-rm", "balance", "--policy-rm", "80:hold", "--drain", "10s")
    assert run("update", "-d", *flags, "web").exit_code == 0
    assert labels(daemon) == {"a": "1", "meshlb.drain": "10s"}


@pytest.mark.parametrize(
    ("flag", "text", "says"),
    [
        ("--policy", "443:balance", '"443:balance" is not PORT:KEY=VALUE'),
        ("--policy", "balance=source", '"balance=source" is not PORT:KEY=VALUE'),
        ("--policy", "443:foo=1", '"foo" in "443:foo=1" is not a policy; known are balance, '),
        ("--policy", "443:balance=best", '"best" is not one of roundrobin'),
        ("--policy", "70000:balance=source", "does not name a policy"),
        ("--policy", "0:balance=source", "does not name a policy"),
        ("--policy-rm", "a:b:c", "does not name a policy"),
    ],
)
def test_bad_policies(run: Run, flag: str, text: str, says: str) -> None:
    result = run("update", "-d", flag, text, "web")
    assert (result.exit_code, says in result.stderr) == (125, True), result.stderr


def test_switches_take_values_as_docker_s(run: Run, daemon: Daemon) -> None:
    flags = ("--detach=true", "--quiet=false", "--no-resolve-image=1", "--init=T", "-t=false", "web")
    assert run("create", *flags, "--detach=what", "stays").exit_code == 0
    container = sent(daemon)["TaskTemplate"]["ContainerSpec"]
    assert (container["Init"], container["TTY"]) == (True, False)
    assert container["Args"] == ["--detach=what", "stays"]
    bad = run("create", "--init=maybe", "web")
    assert (bad.exit_code, '"maybe" is not true or false' in bad.stderr) == (125, True)


def test_a_flag_s_value_is_never_taken_for_a_switch(run: Run, daemon: Daemon) -> None:
    flags = ("-d", "--no-resolve-image", "-l", "--init=x", "-e", "A=--init=false")
    assert run("create", *flags, "web").exit_code == 0
    assert labels(daemon) == {"--init": "x"}
    assert sent(daemon)["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=--init=false"]


def test_short_flags_take_an_equals_sign(run: Run, daemon: Daemon) -> None:
    assert run("create", "-d", "--no-resolve-image", "-u=root", "-w=/app", "-p=80:8000", "web").exit_code == 0
    container = sent(daemon)["TaskTemplate"]["ContainerSpec"]
    assert (container["User"], container["Dir"]) == ("root", "/app")
    assert sent(daemon)["EndpointSpec"]["Ports"][0]["PublishedPort"] == 80


def test_the_login_is_sent_along_only_when_asked(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    login = base64.b64encode(b"me:secret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"reg.example": {"auth": login}}}))
    run("create", "-d", "--no-resolve-image", "reg.example/web")
    run("create", "-d", "--no-resolve-image", "--with-registry-auth", "reg.example/web")
    without, along = daemon.asked("POST", "/services/create")
    assert "x-registry-auth" not in without.headers
    assert json.loads(base64.urlsafe_b64decode(along.headers["x-registry-auth"]))["username"] == "me"
    run("update", "-d", "--label-add", "a=b", "web")
    run("update", "-d", "--label-add", "a=b", "--with-registry-auth", "--image", "reg.example/web", "web")
    kept, sent_along = daemon.asked("POST", UPDATE)
    assert (kept.query["registryAuthFrom"], "x-registry-auth" in kept.headers) == ("spec", False)
    assert ("registryAuthFrom" in sent_along.query, "x-registry-auth" in sent_along.headers) == (False, True)


@pytest.mark.parametrize("words", [("rollback", "-d", "web"), ("update", "--rollback", "-d", "web")])
def test_rollback(run: Run, daemon: Daemon, words: tuple[str, ...]) -> None:
    nothing = run(*words)
    assert (nothing.exit_code, "no previous specification" in nothing.stderr) == (1, True)
    daemon.answers["GET /services/web"]["PreviousSpec"] = {"Name": "web"}
    assert run(*words).stdout == "web\n"
    (asked,) = daemon.asked("POST", UPDATE)
    assert (asked.query, asked.body) == ({"rollback": "previous", "version": "7"}, DOCKER["full"])


def test_rollback_is_alone(run: Run) -> None:
    result = run("update", "--rollback", "--replicas", "3", "web")
    assert (result.exit_code, "may not be combined with --rollback" in result.stderr) == (1, True)


def test_names_that_are_not_there(run: Run, daemon: Daemon) -> None:
    for kind in ("secret", "config"):
        result = run("create", "-d", f"--{kind}", "three", "web")
        assert result.exit_code == 1
        assert result.stderr == (
            f"meshlb: no such {kind}: three (create it with `docker {kind} create three FILE`)\n"
        )


def test_scaling_a_job_changes_how_often_it_runs_not_how_many_at_once(run: Run, daemon: Daemon) -> None:
    mode = {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 2}}
    daemon.answers["GET /services/web"]["Spec"] = DOCKER["full"] | {"Mode": mode}
    assert run("scale", "-d", "web=5").exit_code == 0
    assert sent(daemon)["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 5}}
