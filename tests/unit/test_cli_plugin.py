"""`docker meshlb`: docker finds the plugin, lists it, and hands its words over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import running

from meshlb import __version__
from meshlb.cli.plugin import words


def test_the_plugin_s_name_is_not_a_verb() -> None:
    assert words(["meshlb", "service", "ls"]) == ["service", "ls"]
    assert words(["--context", "x", "meshlb", "service", "rm", "meshlb"]) == (
        ["--context", "x", "service", "rm", "meshlb"]
    )


@pytest.mark.skipif(not shutil.which("docker"), reason="needs docker's command")
def test_docker_runs_it(tmp_path: Path) -> None:
    plugin = tmp_path / "cli-plugins/docker-meshlb"
    plugin.parent.mkdir()
    plugin.write_text(f"#!{sys.executable}\nfrom meshlb.cli.plugin import main\nmain()\n")
    plugin.chmod(0o755)
    with running(tmp_path) as daemon:
        daemon.answers |= {"GET /nodes": [], "GET /info": {"Swarm": {}}}
        settings = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": daemon.address}

        def docker(*given: str) -> str:
            return subprocess.run(
                ["docker", *given], env=os.environ | settings, capture_output=True, text=True, check=True
            ).stdout

        assert docker("meshlb", "--version") == f"meshlb version {__version__}\n"
        assert "meshlb*" in docker("--help")
        assert docker("meshlb", "node", "ls").startswith("ID ")
        assert docker("--host", daemon.address, "meshlb", "node", "ls", "-q") == ""
