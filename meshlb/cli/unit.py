"""The agent's systemd unit, as the package carries it, for the place where the agent is installed."""

from __future__ import annotations

import grp
import sys
from importlib.resources import files
from pathlib import Path

from meshlb.errors import ConfigError

_HERE = "/opt/meshlb/bin/meshlb-agent"
_GROUP = "docker"
_HOMES = ("home", "root")


def unit(program: Path, python: Path = Path(sys.base_prefix)) -> str:
    """The unit's text for a program that `python` runs; ConfigError where systemd could not start it."""
    for needed, what in ((program, "install meshlb"), (python, "make meshlb's environment with a Python")):
        if needed.parts[1:2] in [(home,) for home in _HOMES]:
            raise ConfigError(
                f"the unit keeps the agent out of home directories, and {needed} is in one: {what} "
                "elsewhere, such as in /opt/meshlb with /usr/bin/python3 -m venv"
            )
    text = files("meshlb").joinpath("meshlb-agent.service").read_text(encoding="utf-8")
    return _for_group(text).replace(_HERE, str(program))


def _for_group(text: str) -> str:
    """systemd starts nothing for a group that is not there."""
    try:
        grp.getgrnam(_GROUP)
    except KeyError:
        return text.replace(f"Group={_GROUP}\n", "")
    return text
