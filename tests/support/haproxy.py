"""HAProxy on every node of a lab, finding tasks by Docker's DNS: what users would take instead of meshlb."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
import time
import urllib.request
from pathlib import Path

from front import ASIDE
from waiting import eventually
from watch import containers

from meshlb.lab import Lab, LabError, Node, image

BINARY = Path("/usr/sbin/haproxy")
CONFIG = Path(__file__).with_name("haproxy.cfg")
REPOSITORY = "meshlb/haproxy"
SERVICE = "front"
NETWORK = "mesh"
PORTS = (80, 81, 9000)
PATIENCE = 90.0


class HAProxy:
    """A global service on the tasks' network, with its ports on the nodes themselves."""

    name = "haproxy"
    options: tuple[str, ...] = ("--network", NETWORK)
    untold: tuple[str, ...] = (ASIDE,)
    kill_seconds = 0.5  # docker asks its shim

    def up(self, lab: Lab) -> None:
        """Returns when it runs on every node."""
        self._lab = lab
        tar = archive()
        for node in lab.nodes:
            image.load(
                node.engine, REPOSITORY, tar, [f'CMD ["{BINARY}", "-W", "-db", "-f", "/etc/haproxy.cfg"]']
            )
        manager = lab.nodes[0]
        manager.run(["docker", "network", "create", "--driver=overlay", NETWORK])
        publish = [f"--publish=mode=host,published={port},target={port}" for port in PORTS]
        create = ["docker", "service", "create", "--quiet", "--detach", f"--name={SERVICE}", "--mode=global"]
        options = [f"--network={NETWORK}", "--restart-delay=0s", *publish]
        manager.run([*create, *options, f"{REPOSITORY}:{image.TAG}"])
        for node in lab.nodes:
            self._await_running(node)

    def down(self) -> None:
        """It ends with the lab."""

    def back(self, node: Node) -> None:
        """Swarm starts it again by itself."""
        self._await_running(node)

    def lost(self, node: Node) -> None:
        """There is nothing to forget."""

    def keep(self, node: Node) -> None:
        """Nobody holds its sockets."""

    def replace(self, node: Node) -> None:
        """A reload: the master starts another worker, which takes the listening sockets over."""
        (container,) = containers(node, SERVICE)
        before = _processes(node, container)
        node.run(["docker", "kill", "--signal=USR2", container])
        eventually(
            lambda: len(_processes(node, container) - before) == 1, timeout=30, what="another worker to start"
        )

    def crash(self, node: Node) -> float:
        """Swarm starts another one."""
        (container,) = containers(node, SERVICE)
        began = time.monotonic()
        node.run(["docker", "kill", container])
        eventually(lambda: container not in containers(node, SERVICE), timeout=30, what="it to die")
        self._await_running(node)
        eventually(lambda: _answers(node), timeout=PATIENCE, what=f"HAProxy of {node.name} to answer")
        return time.monotonic() - began

    def set_aside(self, node: Node, by: Node) -> bool:
        """It is not asked."""
        return False

    def _await_running(self, node: Node) -> None:
        eventually(lambda: _runs(node), timeout=PATIENCE, what=f"HAProxy on {node.name}")


def _runs(node: Node) -> bool:
    try:
        return bool(containers(node, SERVICE))
    except LabError:
        return False


def _answers(node: Node) -> bool:
    try:
        with urllib.request.urlopen(f"http://{node.address}/", timeout=2) as answer:
            return bool(answer.read())
    except OSError:
        return False


def _processes(node: Node, container: str) -> set[str]:
    lines = node.run(["docker", "top", container, "-eo", "pid,args"]).stdout.splitlines()[1:]
    return {line.split()[0] for line in lines}


def archive() -> bytes:
    """Debian's HAProxy with the libraries it is linked with, and its configuration, as a tar."""
    if not BINARY.exists():
        raise LabError("haproxy is missing; install it with: apt-get install haproxy")
    linked = subprocess.run(["ldd", str(BINARY)], capture_output=True, text=True, check=True).stdout
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in ("tmp", "etc", "proc", "sys", "dev"):
            image.add(tar, directory, kind=tarfile.DIRTYPE, mode=0o777)
        image.add(tar, "etc/haproxy.cfg", CONFIG.read_bytes())
        for path in [str(BINARY), *re.findall(r"(/\S+) \(0x", linked)]:
            image.add(tar, path.lstrip("/"), Path(path).read_bytes())
    return buffer.getvalue()
