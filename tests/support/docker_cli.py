"""Plain docker, as a user of the lab's Swarm has it."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable

from waiting import eventually

from meshlb.lab import Lab

LOOKS = 0.1  # seconds between two: each reads all processes and asks every engine
PATIENCE = 60.0

Serve = Callable[..., None]  # (name, *options of docker service create, image)


def docker(lab: Lab, *words: str) -> str:
    """What docker says on the manager."""
    return lab.nodes[0].run(["docker", *words], timeout=120).stdout


def running(lab: Lab, service: str) -> int:
    """How many containers of its tasks run, on all nodes that are on."""
    wanted = json.dumps({"label": [f"com.docker.swarm.service.name={service}"]})
    path = "/containers/json?" + urllib.parse.urlencode({"filters": wanted})
    return sum(len(node.engine.get(path)) for node in lab.nodes if node.init)


def await_running(lab: Lab, service: str, count: int) -> None:
    """Until so many run. Without --detach docker waits five seconds more, for them to go on running."""
    eventually(
        lambda: running(lab, service) == count,
        timeout=PATIENCE,
        what=f"{count} containers of {service}",
        every=LOOKS,
    )


def scale(lab: Lab, service: str, replicas: int) -> None:
    """Returns when so many run, and no other."""
    docker(lab, "service", "scale", "--detach", f"{service}={replicas}")
    await_running(lab, service, replicas)
