"""Whether the node's agent is this container's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshlb.handover import agent_socket, probe

ASK = [sys.executable, "-I", "-S", probe.__file__]


def test_an_agent_that_we_see_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    assert not probe.is_ours(str(path))
    place = agent_socket.claim(path)
    assert probe.is_ours(str(path))
    assert subprocess.run([*ASK, str(path)], check=False).returncode == 0
    place.close()
    assert not probe.is_ours(str(path))
    assert subprocess.run([*ASK, str(path)], check=False).returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a process namespace")
def test_one_of_another_container_is_not(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    place = agent_socket.claim(path)
    asked = subprocess.run(["unshare", "--pid", "--fork", *ASK, str(path)], check=False)
    place.close()
    assert asked.returncode == 1
