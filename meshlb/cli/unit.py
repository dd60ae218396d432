"""The agent's systemd unit, as the package carries it, for the place where the agent is installed."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from meshlb.errors import ConfigError

_HERE = "/opt/meshlb/bin/meshlb-agent"


def unit(program: Path) -> str:
    """The unit's text; ConfigError where systemd could not start the program."""
    if program.parts[1:2] in (("home",), ("root",)):
        raise ConfigError(
            f"the unit keeps the agent out of home directories, and {program} is in one: install meshlb "
            "elsewhere, such as in /opt/meshlb"
        )
    text = files("meshlb").joinpath("meshlb-agent.service").read_text(encoding="utf-8")
    return text.replace(_HERE, str(program))
