"""A node of the lab: one machine's worth of namespaces with a dockerd in it."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshlb.errors import LabError
from meshlb.lab import cgroups, process
from meshlb.lab.api import Engine
from meshlb.lab.process import Birth, Init
from meshlb.lab.state import option

ENGINE_SECONDS = 60.0
ENDED = "meshlb-lab: dockerd ended"

# Runs as process 1 of the node. What it mounts is seen by nobody else. $PRIVATE keeps what a machine has of
# its own in /etc. It starts dockerd again whenever it ends, as systemd does, and reaps orphans.
_SCRIPT = """\
set -e
PRIVATE=$1 NODE=$4
mkdir -p "$PRIVATE/docker" "$PRIVATE/meshlb" "$PRIVATE/cgroup"
# sysfs shows the interfaces of the namespace it was mounted in, and a fresh one has no cgroups below.
mount --rbind /sys/fs/cgroup "$PRIVATE/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$PRIVATE/cgroup" /sys/fs/cgroup
umount -l "$PRIVATE/cgroup"
# What this machine had mounted below /run would be kept alive by our copy of it.
while read -r _ where type _; do
  case "$where" in /run/*) umount -l "$where" || true ;; esac
  # Out of the caller's session and its limits: as on a machine that has just booted.
  case "$type" in cgroup|cgroup2) echo 0 > "$where/cgroup.procs" || true ;; esac
done < /proc/self/mounts
resolv=$(readlink -f /etc/resolv.conf || true)
mount -t tmpfs -o mode=755,size=256m tmpfs /run
mkdir -p /run/lock /run/user
case "$resolv" in
  /run/*) mkdir -p "$(dirname "$resolv")"; cp "$PRIVATE/resolv.conf" "$resolv" ;;
  *) if [ -e /etc/resolv.conf ]; then mount --bind "$PRIVATE/resolv.conf" /etc/resolv.conf; fi ;;
esac
if [ -e /etc/hosts ]; then mount --bind "$PRIVATE/hosts" /etc/hosts; fi
if [ -e /etc/hostname ]; then mount --bind "$PRIVATE/hostname" /etc/hostname; fi
# dockerd reads daemon.json and keeps its identity (key.json) there: each node has its own.
mkdir -p /etc/docker
mount --bind "$PRIVATE/docker" /etc/docker
# So it is with what an agent keeps on disk.
mkdir -p /var/lib/meshlb
mount --bind "$PRIVATE/meshlb" /var/lib/meshlb
# As systemd has it: a container may ask to see what is mounted on its node later.
mount --make-rshared /
hostname "$NODE"
ip link set lo up
echo ready
read -r _go
exec </dev/null >&2
set +e
while :; do
  rm -f /run/docker.pid
  {dockerd}
  echo "{ended} with status $?; starting it again"
  sleep 1
done
"""

# The same for the switch, which has no private files.
SWITCH_SCRIPT = """\
set -e
mount -t tmpfs tmpfs /run
ip link set lo up
echo ready
read -r _go
exec </dev/null >&2
while :; do sleep 1000000; done
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a node is made of."""

    lab: str
    name: str
    address: str
    storage_driver: str
    home: Path  # data root and private files; survives `kill`
    hosts: str  # lines for /etc/hosts


class Node:
    """A running (or killed) node. Commands run in it as on a machine of its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lab, self.name, self.address = plan.lab, plan.name, plan.address
        self._log_start: int | None = None  # where the log of its last start begins

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.address}>"

    @property
    def init(self) -> Init | None:
        """Its process 1, or None while it is powered off."""
        return next((init for init in process.find(self.lab) if init.node == self.name), None)

    @property
    def pid(self) -> int:
        """The pid of its process 1 as seen from this machine; LabError while it is powered off."""
        return self._running().pid

    def _running(self) -> Init:
        init = self.init
        if init is None:
            raise self.powered_off()
        return init

    def powered_off(self) -> LabError:
        """What to say where it should run and does not."""
        start = f"meshlb lab start{option(self.lab)} {self.name}"
        return LabError(f"{self.name} of lab {self.lab} is powered off; start it with: {start}")

    @property
    def socket(self) -> str:
        """The path of its docker.sock, as seen from this machine."""
        return f"/proc/{self.pid}/root/run/docker.sock"

    @property
    def log(self) -> Path:
        """What its dockerd said."""
        return self.plan.home / "dockerd.log"

    @property
    def engine(self) -> Engine:
        """Its dockerd's API."""
        return Engine(self.name, self.socket)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command in the node; `options` are subprocess.Popen's. Its pid is the command's own."""
        return process.start_in(self._running(), command, **options)

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; LabError with what it printed when it fails or takes too long."""
        pipe = subprocess.PIPE
        source = subprocess.DEVNULL if stdin is None else pipe
        with self.popen(command, stdin=source, stdout=pipe, stderr=pipe) as child:
            try:
                out, err = child.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                raise LabError(f"{self.name}: {shlex.join(command)}: no end after {timeout:g} s") from None
            except BaseException:
                child.kill()
                raise
        if check and child.returncode:
            said = (err + out).strip()
            raise LabError(f"{self.name}: {shlex.join(command)}: exit status {child.returncode}: {said}")
        return subprocess.CompletedProcess(list(command), child.returncode, out, err)

    def prepare(self) -> Birth:
        """Make its namespaces and private files; it then waits for its wire."""
        private = self.plan.home / "private"
        private.mkdir(parents=True, exist_ok=True)
        # Its own address refuses DNS at once, for containers too; a resolver that stays silent costs every
        # image lookup 20 seconds, and Docker replaces one at 127.0.0.1 by a public one.
        (private / "resolv.conf").write_text(f"nameserver {self.address}\n")
        (private / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{self.plan.hosts}")
        (private / "hostname").write_text(f"{self.name}\n")
        script = private / "init.sh"
        script.write_text(_SCRIPT.format(ended=ENDED, dockerd=shlex.join(self._dockerd())))
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            return Birth(self.lab, self.name, [str(script), str(private)], log)

    def _dockerd(self) -> list[str]:
        options = {
            "host": "unix:///run/docker.sock",
            "data-root": str(self.plan.home / "data"),
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "storage-driver": self.plan.storage_driver,
            "cgroup-parent": cgroups.parent(self.lab, self.name),
        }
        return ["dockerd", *(f"--{key}={value}" for key, value in options.items())]

    def wait_engine(self) -> None:
        """Returns when its dockerd answers; LabError with its last words when it gives up."""
        start = self.log.stat().st_size if self._log_start is None else self._log_start
        deadline = time.monotonic() + ENGINE_SECONDS
        while not self.engine.answers():
            said = self.log.read_bytes()[start:].decode(errors="replace")
            # Once may be the end of the one that ran before.
            if said.count(ENDED) > 1 or time.monotonic() > deadline:
                raise LabError(f"dockerd of {self.name} does not come up: {process.last_lines(self.log)}")
            time.sleep(0.05)
        self._log_start = None
