"""The progress of a service as a terminal shows it, beside a daemon that does as the test says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon, running
from tmux import Screen, screen

ID, NODE = "002g0gimp7rbo6ot1vcvkkrsx", "r6b6655bu5x8dvitx33z14ih3"


class Swarm:
    """A service whose tasks are in the states that the test gives them."""

    def __init__(self, daemon: Daemon) -> None:
        self.address = daemon.address
        self.states: list[str] = []
        self.error = ""
        daemon.answers |= {
            "POST /services/create": {"ID": ID},
            f"GET /services/{ID}": lambda _: self._service(),
            "GET /tasks": lambda _: [self._task(slot, state) for slot, state in enumerate(self.states, 1)],
            "GET /nodes": [{"ID": NODE, "Status": {"State": "ready"}}],
        }

    def _service(self) -> dict[str, Any]:
        mode = {"Replicated": {"Replicas": len(self.states)}}
        spec = {"Name": "web", "Mode": mode, "UpdateConfig": {"Monitor": 2 * 10**9}}
        return {"ID": ID, "Version": {"Index": 1}, "Spec": spec}

    def _task(self, slot: int, state: str) -> dict[str, Any]:
        status = {"State": state, "Err": self.error if state == "rejected" else ""}
        return {
            "ID": f"task{slot}",
            "Slot": slot,
            "NodeID": NODE,
            "DesiredState": "running",
            "Status": status,
        }


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with running(tmp_path) as daemon:
        yield Swarm(daemon)


def create(swarm: Swarm, shown: Screen, *options: str) -> None:
    words = ("-H", swarm.address, "service", "create", "--no-resolve-image", "--name", "web", *options, "web")
    shown.type(sys.executable, "-m", "meshlb", *words)


def bars(lines: list[str]) -> list[tuple[str, str, int]]:
    """Label and state of each bar, and how far it is."""
    found = (re.fullmatch(r"(\d/\d): (\w+) +\[(=*)> *\]", line) for line in lines)
    return [(match[1], match[2], len(match[3])) for match in found if match]


def test_bars_move_and_the_service_converges(swarm: Swarm, tmp_path: Path) -> None:
    swarm.states = ["pending", "preparing"]
    with screen(tmp_path, 100, 24) as shown:
        create(swarm, shown)
        lines = shown.shows("overall progress: 0 out of 2 tasks", "2/2: preparing")
        assert lines[lines.index(ID) + 1] == "overall progress: 0 out of 2 tasks"
        (_, _, first), (_, _, second) = before = bars(lines)
        assert [bar[:2] for bar in before] == [("1/2", "pending"), ("2/2", "preparing")]
        assert 0 < first < second < 50
        swarm.states = ["running", "starting"]
        lines = shown.shows("overall progress: 1 out of 2 tasks", "2/2: starting")
        assert bars(lines)[0] == ("1/2", "running", 50)
        swarm.states = ["running", "running"]
        shown.shows("verify: Waiting ", " seconds to verify that tasks are stable...")
        lines = shown.shows("verify: Service web converged", "ended with 0")
        assert [line for line in lines if line][-7:] == [
            ID,
            "overall progress: 2 out of 2 tasks",
            f"1/2: running   [{'=' * 50}>]",
            f"2/2: running   [{'=' * 50}>]",
            "verify: Service web converged",
            "ended with 0",
            "$",
        ]


def test_a_task_s_error_takes_the_place_of_its_bar(swarm: Swarm, tmp_path: Path) -> None:
    swarm.states, swarm.error = ["running", "rejected"], "No such image: web:latest"
    with screen(tmp_path, 70, 24) as shown:
        create(swarm, shown)
        shown.shows("2/2: No such image: web:latest")
        shown.press("C-c")
        lines = shown.shows("ended with 0")
    assert "Operation continuing in background." in lines
    assert f"Use `meshlb service ps {ID}` to check progress." in "".join(lines)


def test_a_terminal_that_is_too_small_for_bars_shows_the_count(swarm: Swarm, tmp_path: Path) -> None:
    swarm.states = ["running"] * 3 + ["starting"] * 6
    with screen(tmp_path, 80, 8) as shown:
        create(swarm, shown)
        assert bars(shown.shows("overall progress: 3 out of 9 tasks")) == []
        shown.resize(80, 24)
        lines = shown.shows("9/9: starting")
        assert len(bars(lines)) == 9
        assert sum("overall progress" in line for line in lines) == 1
        shown.resize(24, 24)  # no room for bars: the states alone
        lines = shown.until(lambda lines: "9/9: starting" in lines, "a narrow screen")
        shown.press("C-c")
        shown.shows("ended with 0")


def test_no_progress_where_it_is_not_asked_for(swarm: Swarm, tmp_path: Path) -> None:
    swarm.states = ["starting"]
    with screen(tmp_path, 80, 8) as shown:
        create(swarm, shown, "--detach")
        assert [line for line in shown.shows("ended with 0") if line][-3:] == [ID, "ended with 0", "$"]
