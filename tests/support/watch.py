"""What becomes of the containers of a lab: when each was told to end, or turned unhealthy."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from meshlb.lab import Lab, Node

NAME_LENGTH = 12  # of a container's host name: the beginning of its id
_FORMAT = "{{json .}}"


class Watch:
    """Follows the engines of a lab; times are seconds since the epoch."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab, self._directory = lab, directory
        self._children: list[subprocess.Popen[str]] = []
        self._files: list[Path] = []
        self.lost: dict[str, float] = {}  # those whose engine could not tell

    def start(self, *names: str) -> None:
        """Follow these nodes (all, where none is named)."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for node in self._lab.nodes:
            if node.name in names or not names:
                file = self._directory / f"events-{len(self._files)}"
                command = ["docker", "events", "--filter=type=container", f"--format={_FORMAT}"]
                with file.open("w") as output:
                    self._children.append(node.popen(command, stdout=output, stderr=subprocess.DEVNULL))
                self._files.append(file)

    def stop(self) -> None:
        """Follow no longer."""
        for child in self._children:
            child.kill()
            child.wait()
        self._children.clear()

    def lose(self, names: Iterable[str], when: float) -> None:
        """These end now, and their engine cannot tell."""
        for name in names:
            self.lost.setdefault(name, when)

    def ends(self) -> dict[str, float]:
        """When each container was told to end, or died untold."""
        found = dict(self.lost)
        for name, action, when in self._events():
            if action in ("kill", "die", "stop"):
                found[name] = min(when, found.get(name, when))
        return found

    def deaths(self) -> dict[str, float]:
        """When each container was dead: until then its kernel accepts connections that nobody will answer."""
        return {name: when for name, action, when in self._events() if action == "die"}

    def unhealthy(self) -> dict[str, float]:
        """When each container turned unhealthy."""
        return {name: when for name, action, when in self._events() if action == "health_status: unhealthy"}

    def _events(self) -> Iterator[tuple[str, str, float]]:
        for file in self._files:
            for line in file.read_text().splitlines():
                with suppress(ValueError):  # the last line of an engine that was killed
                    event = json.loads(line)
                    yield event["id"][:NAME_LENGTH], event["Action"], event["timeNano"] / 1e9


def containers(node: Node, service: str = "") -> list[str]:
    """The names that the servers in a node's containers go by: of one service, or of all."""
    label = "com.docker.swarm.service.name" + (f"={service}" if service else "")
    command = ["docker", "ps", "--no-trunc", "--quiet", f"--filter=label={label}"]
    return [line[:NAME_LENGTH] for line in node.run(command).stdout.split()]
