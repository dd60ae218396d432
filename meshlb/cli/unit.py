"""The agent's systemd unit, as the package carries it, for the place where the agent is installed."""

from __future__ import annotations

import grp
import sys
from importlib.resources import files
from pathlib import Path

from meshlb.errors import ConfigError

_HERE = "/opt/meshlb/bin/meshlb-agent"
_GROUP = "docker"


def unit(program: Path, python: Path = Path(sys.base_prefix)) -> str:
    """The unit's text for a program that `python` runs; ConfigError where others could change it."""
    for needed, what in ((program, "install meshlb"), (python, "make meshlb's environment with a Python")):
        if needed.parts[1:2] == ("home",):
            raise ConfigError(
                f"the agent runs as root, and {needed} is its owner's: {what} "
                "elsewhere, such as in /opt/meshlb with /usr/bin/python3 -m venv"
            )
    text = files("meshlb").joinpath("meshlb-agent.service").read_text(encoding="utf-8")
    return _for_group(text).replace(_HERE, str(program))


def agent_program() -> Path:
    """Where pip has put the agent: beside this command, or beside Python. ConfigError where it is not."""
    places = Path(sys.argv[0]).resolve().parent, Path(sys.executable).parent
    for place in places:
        if (found := place / "meshlb-agent").exists():
            return found
    looked = " or ".join(dict.fromkeys(map(str, places)))
    raise ConfigError(
        f"there is no meshlb-agent in {looked}: install meshlb with pip, and run the meshlb that it brings"
    )


def _for_group(text: str) -> str:
    """systemd starts nothing for a group that is not there."""
    try:
        grp.getgrnam(_GROUP)
    except KeyError:
        return text.replace(f"Group={_GROUP}\n", "")
    return text
