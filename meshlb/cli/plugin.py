"""`docker meshlb …`: the same command as a plugin of docker's own.

docker asks a plugin for its metadata, and runs it with all its words: `docker-meshlb --context x meshlb ps`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from meshlb import __version__

NAME = "meshlb"
METADATA = {
    "SchemaVersion": "0.1.0",
    "Vendor": "meshlb",
    "Version": __version__,
    "ShortDescription": "The routing mesh and load balancer for Docker Swarm",
}


def main() -> None:
    """The entry point `docker-meshlb`."""
    if sys.argv[1:2] == ["docker-cli-plugin-metadata"]:
        print(json.dumps(METADATA))
        return
    from meshlb.cli import main as command  # noqa: PLC0415  metadata are asked for at each `docker --help`

    command(words(sys.argv[1:]))


def words(given: Sequence[str]) -> list[str]:
    """What the command is given: docker's words without the plugin's name (pure)."""
    found = list(given)
    if NAME in found:
        found.remove(NAME)
    return found
