"""`meshlb service create` and `update` send what docker's own client sends, option by option."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from daemon import Daemon, running
from docker_json import essence, unordered
from docker_words import CREATE, DOCKER, FULL, UPDATE, answers, lines, sent

from meshlb.cli import main

Send = Callable[..., dict[str, Any]]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as table:
        table.answers |= answers(DOCKER["full"])
        yield table


@pytest.fixture
def send(daemon: Daemon, tmp_path: Path) -> Send:
    environment = {"DOCKER_HOST": daemon.address, "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}

    def send_(*words: str) -> dict[str, Any]:
        result = CliRunner().invoke(main, ["service", *words], env=environment)
        assert result.exit_code == 0, result.output
        return sent(daemon)

    return send_


def zeros(value: Any) -> Any:
    """Go leaves zeros of some fields out."""
    if isinstance(value, dict):
        return {key: zeros(item) for key, item in value.items() if item not in (0, False) or key in _ALWAYS}
    return [zeros(item) for item in value] if isinstance(value, list) else value


# What a zero or a false says, and absence does not.
_ALWAYS = ("Replicas", "Init", "Parallelism", "MaxAttempts", "Delay", "StopGracePeriod", "Soft", "Hard")


@pytest.mark.parametrize("line", lines(CREATE))
def test_create(send: Send, line: str) -> None:
    assert _comparable(send("create", "-d", "--no-resolve-image", *shlex.split(line))) == _comparable(
        DOCKER["create"][line]
    )


def test_a_service_with_everything(send: Send) -> None:
    body = send("create", "-d", "--no-resolve-image", *shlex.split(FULL))
    assert _comparable(body) == _comparable(DOCKER["full"])


@pytest.mark.parametrize("line", lines(UPDATE))
def test_update(send: Send, line: str) -> None:
    body = send("update", "-d", "--no-resolve-image", *shlex.split(line), "web")
    assert _comparable(body) == _comparable(DOCKER["update"][line])


def _comparable(spec: dict[str, Any]) -> Any:
    return unordered(essence(zeros(spec)))


def test_what_is_recorded_is_what_is_tested() -> None:
    assert list(DOCKER["create"]) == sorted(lines(CREATE))
    assert list(DOCKER["update"]) == sorted(lines(UPDATE))


def test_an_update_of_a_label_leaves_the_mounts_alone(send: Send, daemon: Daemon) -> None:
    spec = copy.deepcopy(DOCKER["full"])
    mounts = spec["TaskTemplate"]["ContainerSpec"]["Mounts"]
    mounts.reverse()
    daemon.answers["GET /services/web"]["Spec"] = spec
    body = send("update", "-d", "--label-add", "x=y", "web")
    assert body["TaskTemplate"]["ContainerSpec"]["Mounts"] == mounts
