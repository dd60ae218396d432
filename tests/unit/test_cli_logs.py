"""`meshlb service logs`: docker's lines, to the space."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from daemon import Daemon, running

from meshlb.cli import main
from meshlb.cluster.task_log import since
from meshlb.errors import ConfigError

SERVICE, TASK, NODE = "002g0gimp7rbo6ot1vcvkkrsx", "ub97gyix7c55pxeqtii6ji7u1", "nodeid1"
CONTEXT = (
    f"com.docker.swarm.node.id={NODE},com.docker.swarm.service.id={SERVICE},com.docker.swarm.task.id={TASK}"
)
FRAMES = ((1, f"{CONTEXT} hello world\n"), (2, f"{CONTEXT},zone=a%2Cb oops\n"))
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def stream(*frames: tuple[int, str]) -> bytes:
    return b"".join(struct.pack(">BxxxL", kind, len(text.encode())) + text.encode() for kind, text in frames)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as table:
        template = {"ContainerSpec": {"Image": "web"}}
        spec = {"Name": "web", "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 10}}}
        service = {"ID": SERVICE, "Version": {"Index": 1}, "Spec": spec}
        task = {"ID": TASK, "ServiceID": SERVICE, "Slot": 1, "NodeID": NODE, "Spec": template}
        table.answers |= {
            "GET /services/web": service,
            f"GET /services/{SERVICE}": service,
            f"GET /tasks/{TASK}": task,
            "GET /nodes": [{"ID": NODE, "Spec": {}, "Description": {"Hostname": "node1"}}],
            f"GET /services/{SERVICE}/logs": stream(*FRAMES),
            f"GET /tasks/{TASK}/logs": stream(*FRAMES),
        }
        yield table


@pytest.fixture
def run(daemon: Daemon, tmp_path: Path) -> Callable[..., Result]:
    environment = {"DOCKER_HOST": daemon.address, "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    return lambda *words: CliRunner().invoke(main, ["service", "logs", *words], env=environment)


# As docker 28.2 printed them for the same answers.
@pytest.mark.parametrize(
    ("words", "out", "err"),
    [
        (["web"], "web.1.ub97gyix7c55@node1     | hello world\n", "web.1.ub97gyix7c55@node1     | oops\n"),
        ([TASK], "web.1.ub97gyix7c55@node1    | hello world\n", "web.1.ub97gyix7c55@node1    | oops\n"),
        (
            ["--details", "web"],
            "web.1.ub97gyix7c55@node1     |  hello world\n",
            "web.1.ub97gyix7c55@node1     | zone=a,b oops\n",
        ),
        (
            ["--no-trunc", "web"],
            f"web.1.{TASK}@node1     | hello world\n",
            f"web.1.{TASK}@node1     | oops\n",
        ),
        (["--no-task-ids", "web"], "web.1@node1     | hello world\n", "web.1@node1     | oops\n"),
        (
            ["--no-resolve", TASK],
            f"{SERVICE}.1.ub97gyix7c55@{NODE}    | hello world\n",
            f"{SERVICE}.1.ub97gyix7c55@{NODE}    | oops\n",
        ),
        (["--raw", "--details", "web"], FRAMES[0][1], FRAMES[1][1]),
    ],
)
def test_lines(run: Callable[..., Result], words: list[str], out: str, err: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout, result.stderr) == (0, out, err)


def test_what_is_asked_for(run: Callable[..., Result], daemon: Daemon) -> None:
    run("--raw", "--tail", "5", "--since", "1700000000", "-t", "web")
    (asked,) = daemon.asked("GET", f"/services/{SERVICE}/logs")
    assert asked.query == {
        "stdout": "1",
        "stderr": "1",
        "details": "0",
        "follow": "0",
        "timestamps": "1",
        "tail": "5",
        "since": "1700000000",
    }


def test_timestamps_stand_first(run: Callable[..., Result], daemon: Daemon) -> None:
    daemon.answers[f"GET /services/{SERVICE}/logs"] = stream((1, f"2026-11-25T08:00:00Z {CONTEXT} hello\n"))
    assert run("-t", "web").stdout == "2026-11-25T08:00:00Z web.1.ub97gyix7c55@node1     | hello\n"


def test_a_terminal_s_bytes_come_as_they_are(run: Callable[..., Result], daemon: Daemon) -> None:
    daemon.answers["GET /services/web"]["Spec"]["TaskTemplate"]["ContainerSpec"]["TTY"] = True
    daemon.answers[f"GET /services/{SERVICE}/logs"] = b"\x1b[1mhello\r\n"
    assert run("web").stdout_bytes == b"\x1b[1mhello\r\n"


def test_a_task_that_is_gone_keeps_its_id(run: Callable[..., Result], daemon: Daemon) -> None:
    del daemon.answers[f"GET /tasks/{TASK}"]
    assert run("web").stdout == f"{TASK}    | hello world\n"


def test_nobody_of_that_name(run: Callable[..., Result]) -> None:
    result = run("nope")
    assert (result.exit_code, result.stderr) == (
        1,
        "meshlb: no such task or service: nope (`meshlb service ls` lists services)\n",
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1700000000", "1700000000"),
        ("1700000000.5", "1700000000.5"),
        ("42m", str(NOW.timestamp() - 2520)),
        ("1h30m", str(NOW.timestamp() - 5400)),
        ("2026-11-25T11:59:00Z", str(NOW.timestamp() - 60)),
        ("2026-11-25T12:59:00+01:00", str(NOW.timestamp() - 60)),
    ],
)
def test_since(text: str, seconds: str) -> None:
    assert since(text, NOW) == seconds


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "5x", "-3"])
def test_since_that_is_no_time(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a time such as"):
        since(text, NOW)
