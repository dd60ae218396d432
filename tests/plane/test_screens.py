"""`meshlb top` and `doctor` beside a real agent, as a terminal shows them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_process import Agent, free_port
from mesh import Server, echo
from tmux import Screen, screen

TOP = (sys.executable, "-m", "meshlb", "top")
FEW = 8  # of twelve ports: on a busy machine another process may have one of them by then
KEYS = "b backends s services n nodes  sort: r rate a active f failed p port  q quit"


@pytest.fixture
def node(tmp_path: Path, server: Callable[..., Server]) -> Iterator[Agent]:
    """Twelve ports, so that a small terminal has no room for them."""
    agent = Agent(tmp_path)
    backend = server(echo).port
    agent.publishes(dict.fromkeys((free_port() for _ in range(12)), backend))
    agent.start()
    yield agent
    agent.end_all()


def start_top(node: Agent, shown: Screen, delay: str = "60") -> list[str]:
    """With so long a delay what changes on the screen comes from keys and from the terminal alone."""
    shown.type(*TOP, "--agent", f"127.0.0.1:{node.http}", "--delay", delay)
    return shown.shows("q quit")


def has_ended(shown: Screen, code: int = 0) -> None:
    """The terminal is as it was before."""
    lines = shown.shows(f"ended with {code}")
    assert (shown.state("alternate_on"), shown.state("cursor_flag")) == ("0", "1")
    assert not any("since the start" in line for line in lines)
    shown.enter("echo y")
    shown.until(lambda lines: "y" in lines, "the shell to echo again")


def test_top_at_several_sizes(node: Agent, tmp_path: Path) -> None:
    with screen(tmp_path, 120, 30) as shown:
        lines = start_top(node, shown)
        assert lines[0].startswith("meshlb ")
        assert ": 12 ports" in lines[0]
        assert ", 0 connections, 0 since the start" in lines[0]
        assert lines[1] == ""
        assert lines[2].split() == (
            ["PORT", "SERVICE", "BACKEND", "TASK", "NODE", "STATE", "ACTIVE", "RATE", "CONNECTED", "FAILED"]
        )
        ports = [int(line.partition("/")[0]) for line in lines[3:15]]
        assert (len(ports), ports) == (12, sorted(ports))
        assert [line for line in lines[15:] if line] == [KEYS]
        assert (shown.state("alternate_on"), shown.state("cursor_flag")) == ("1", "0")

        shown.resize(40, 10)
        lines = shown.until(lambda lines: len(lines) == 10 and "… 7 more" in lines[-2], "a small screen")
        assert all(len(line) < 40 for line in lines)
        assert lines[-1] == KEYS[:39].rstrip()

        shown.resize(200, 16)
        lines = shown.until(lambda lines: len(lines) == 16 and lines[-1] == KEYS, "a wide one")
        assert lines[2].split()[-1] == "FAILED"
        assert sum(" up " in line for line in lines[3:15]) > FEW

        shown.press("q")
        has_ended(shown)


def test_top_s_keys(node: Agent, tmp_path: Path) -> None:
    with screen(tmp_path) as shown:
        start_top(node, shown)
        shown.press("s")
        lines = shown.until(lambda lines: lines[2].split()[:2] == ["SERVICE", "STATE"], "services")
        assert [line.split()[1:3] for line in lines[3:15]].count(["1/1", "up"]) > FEW
        shown.press("n")
        shown.until(lambda lines: lines[2].split()[:2] == ["NODE", "STATE"], "nodes")
        shown.press("b", "Up", "x")  # what is no key changes nothing
        shown.until(lambda lines: lines[2].split()[:2] == ["PORT", "SERVICE"], "backends")
        shown.press("C-c")
        has_ended(shown)


def test_top_gives_the_terminal_back_when_it_is_stopped_or_ended(node: Agent, tmp_path: Path) -> None:
    with screen(tmp_path) as shown:
        start_top(node, shown)
        shown.press("C-z")
        shown.until(lambda lines: any("topped" in line for line in lines), "it to be stopped")
        assert (shown.state("alternate_on"), shown.state("cursor_flag")) == ("0", "1")
        shown.enter("fg")
        shown.until(lambda lines: lines[-1] == KEYS or KEYS in lines, "it to be back")
        assert shown.state("alternate_on") == "1"
        os.kill(shown.child(), signal.SIGTERM)
        shown.until(lambda lines: "$" in lines, "the shell")
        shown.enter('echo "ended with $?"')
        shown.shows("ended with 143")
        assert (shown.state("alternate_on"), shown.state("cursor_flag")) == ("0", "1")


def test_top_says_when_the_agent_is_gone(node: Agent, tmp_path: Path) -> None:
    with screen(tmp_path) as shown:
        start_top(node, shown, "0.2")
        node.end_all()
        shown.shows(f"1 problem: no agent answers at http://127.0.0.1:{node.http}")
        shown.press("q")
        has_ended(shown)
        shown.type(*TOP, "--agent", f"127.0.0.1:{node.http}")
        shown.shows(
            f"meshlb: no agent answers at http://127.0.0.1:{node.http} (Connection refused)", "ended with 1"
        )


@pytest.mark.parametrize("colours", [True, False])
def test_doctor_marks_what_is_good_and_bad(node: Agent, tmp_path: Path, colours: bool) -> None:
    command = (sys.executable, "-m", "meshlb", "-H", "unix:///nowhere.sock", "doctor")
    environment = {"MESHLB_AGENT": f"127.0.0.1:{node.http}"} | ({} if colours else {"NO_COLOR": "1"})
    with screen(tmp_path, 100, 40) as shown:
        shown.type(*command, environment=environment)
        lines = shown.shows(" need attention", "ended with 1", colours=True)
    red, green = "\x1b[31mBAD \x1b[39m", "\x1b[32mok  \x1b[39m"
    bad, good = (red, green) if colours else ("BAD ", "ok  ")
    assert any(line.startswith(f"{good}kernel ") for line in lines), lines
    assert any(
        line.startswith(f"{bad}cannot connect to the Docker daemon at unix:///nowhere.sock") for line in lines
    )
    assert any(line.startswith("      → ") for line in lines)
    assert any(" ports are served, " in line for line in lines), lines
    assert colours == any("\x1b[3" in line for line in lines)
