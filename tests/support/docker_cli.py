"""Plain docker, as a user of the lab's Swarm has it."""

from __future__ import annotations

from collections.abc import Callable

from meshlb.lab import Lab

Serve = Callable[..., None]  # (name, *options of docker service create, image)


def docker(lab: Lab, *words: str) -> str:
    """What docker says on the manager."""
    return lab.nodes[0].run(["docker", *words], timeout=120).stdout
