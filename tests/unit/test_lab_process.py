"""Which processes are a lab's, and what they inherit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from meshlb.lab import LabError, process
from meshlb.lab.process import Init


@pytest.fixture
def impostor() -> Iterator[int]:
    """A process with the arguments of a node, but process 1 of nothing."""
    child = subprocess.Popen(["sh", "-c", "sleep 600; :", process.MARK, "unit", "node1"])
    yield child.pid
    child.kill()
    child.wait()


def test_arguments_alone_make_no_node(impostor: int) -> None:
    assert process.find("unit") == []
    assert not Init("unit", "node1", impostor).alive


def test_a_node_that_is_gone_is_not_killed(impostor: int) -> None:
    process.kill([Init("unit", "node1", impostor), Init("unit", "node2", 2**22 - 1)])
    assert subprocess.run(["kill", "-0", str(impostor)], check=False).returncode == 0


def test_a_command_needs_a_running_node(impostor: int) -> None:
    with pytest.raises(LabError, match="node1 of lab unit has just been powered off"):
        process.start_in(Init("unit", "node1", impostor), ["true"])


def test_a_node_inherits_neither_our_engine_nor_our_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "http_proxy", "HTTPS_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("KEPT", "y")
    environment = process.environment()
    assert environment["KEPT"] == "y"
    assert environment["DOCKER_CONTEXT"] == "default"
    assert not {"DOCKER_HOST", "http_proxy", "HTTPS_PROXY", "no_proxy"} & environment.keys()
