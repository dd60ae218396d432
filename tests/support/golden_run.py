"""Run on a node of a lab: the same commands given to docker and to meshlb, and what became of them, as JSON.

python golden_run.py IMAGE
"""

# types-docker leaves the SDK's methods for services without types:
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from typing import Any

from click.testing import CliRunner
from docker import APIClient
from docker.errors import APIError
from docker_cluster_words import lines as cluster_lines
from docker_words import CREATE, FULL, UPDATE, lines

from meshlb.cli import main
from meshlb.cluster.client import request

TRIES = 20
# Nothing is to start: it is the specifications that are compared.
NOWHERE = ["--constraint", "node.labels.nowhere==1"]
LISTINGS = """
service ls
service list
service ls -q
service ls --filter name=steady
service ls --filter mode=global
service ls --format json
service ls --format '{{.Name}} {{.Replicas}} {{.Ports}}'
service ls --format 'table {{.ID}}\\t{{upper .Name}}'
service ps steady
service ps --no-trunc steady
service ps -q steady
service ps --no-resolve steady
service ps --filter desired-state=running steady
service ps --format '{{.Name}} {{.Node}} {{.DesiredState}}' steady
service ps nope
service ps steady nope
service inspect steady
service inspect steady nope
service inspect -f '{{.Spec.Name}} {{json .Spec.Labels}}' steady
service inspect -f '{{range .Endpoint.Ports}}{{.PublishedPort}} {{end}}' steady
service inspect --pretty steady
service logs steady
service logs --raw steady
service logs --tail 1 --no-task-ids steady
service scale nope=2
service rm nope
service rollback nope
"""
CHANGES_SWARM = re.compile(
    r"^(swarm (init|join |leave|update|unlock|ca --rotate|join-token --rotate)|"
    r"node (update|promote|demote|rm|remove))"
)


def docker(*words: str) -> tuple[int, str]:
    """How docker ends, and what it prints. It gives up when Swarm itself changes the service meanwhile."""
    for _ in range(TRIES):
        done = subprocess.run(
            ["docker", *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if "update out of sequence" not in done.stderr:
            break
    return done.returncode, done.stdout


def meshlb(*words: str) -> tuple[int, str]:
    """The same of meshlb, whose verbs of the swarm stand at the top."""
    result = CliRunner().invoke(main, words[1:] if words[0] == "swarm" else words)
    return result.exit_code, result.stdout


class Golden:
    """Both clients at work on one swarm."""

    def __init__(self, image: str) -> None:
        self.engine = APIClient(base_url="unix:///var/run/docker.sock", version="1.41")
        self.image = image

    def prepare(self) -> None:
        """What the commands name."""
        for name in ("front", "back"):
            docker("network", "create", "--driver", "overlay", name)
        for name in ("one", "two"):
            for kind in ("secret", "config"):
                subprocess.run(["docker", kind, "create", name, "-"], input=b"x", check=True, stdout=-1)
        docker(
            "service",
            "create",
            "-d",
            "--no-resolve-image",
            "--name",
            "everywhere",
            "--mode",
            "global",
            self.image,
        )
        docker("service", "create", "--no-resolve-image", "-q", "--name", "steady", "-p", "8080:8000",
               "--replicas", "2", "--label", "a=1", self.image)  # fmt: skip

    def spec(self, name: str) -> dict[str, Any]:
        """A service's specification, without its name."""
        spec = dict(self.engine.inspect_service(name)["Spec"])
        del spec["Name"]
        return spec

    def created(self, line: str) -> list[Any]:
        """How each client ends, and the specification that it has made."""
        made = []
        for client in (docker, meshlb):
            words = [word for word in shlex.split(line) if not word.startswith("--name")]
            code, said = client("service", "create", "-d", "--no-resolve-image", *NOWHERE, *words)
            made.append([code, self.spec(said.strip()) if code == 0 else said])
            if code == 0:
                self.engine.remove_service(said.strip())
        return made

    def reset(self, full: dict[str, Any]) -> None:
        """The service as it was, whatever was tried on it."""
        for attempt in range(TRIES):
            service = self.engine.inspect_service("web")
            version = {"version": str(service["Version"]["Index"])}
            path = f"/services/{service['ID']}/update"
            try:
                request(self.engine, "POST", path, body=full, query=version)
                return
            except APIError:
                if attempt == TRIES - 1:
                    raise

    def updated(self, line: str, full: dict[str, Any]) -> list[Any]:
        """The same of an update of a service that has everything."""
        made = []
        for client in (docker, meshlb):
            self.reset(full)
            code, said = client("service", "update", "-d", "--no-resolve-image", *shlex.split(line), "web")
            made.append([code, self.spec("web") if code == 0 else said])
        return made

    def listed(self, line: str) -> list[Any]:
        """How each client ends, and what it prints."""
        words = shlex.split(line)
        return [list(client(*words)) for client in (docker, meshlb)]


def run(image: str) -> dict[str, Any]:
    """All of it."""
    golden = Golden(image)
    golden.prepare()
    listings = [line for line in (*lines(LISTINGS), *cluster_lines()) if not CHANGES_SWARM.search(line)]
    listed = {line: golden.listed(line) for line in listings}
    created = {line: golden.created(line) for line in lines(CREATE) if "--name" not in line}
    docker("service", "create", "-d", "--no-resolve-image", *NOWHERE, *shlex.split(FULL))
    full = dict(golden.engine.inspect_service("web")["Spec"])
    updated = {line: golden.updated(line, full) for line in lines(UPDATE)}
    return {"listed": listed, "created": created, "updated": updated}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1])))
