"""Who holds a port on this machine: the process, as far as we may see it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from meshlb.model import Protocol

# In /proc/net/tcp and /proc/net/udp: the state of a socket that takes what comes to its port.
OPEN = {Protocol.TCP: "0A", Protocol.UDP: "07"}
DOCKER = ("dockerd", "docker-proxy")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens on a port."""

    pid: int
    name: str
    arguments: tuple[str, ...] = ()
    ours: bool = False  # it is this very process

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"

    @property
    def is_docker(self) -> bool:
        """Whether it is the daemon, or the proxy that it starts for a published port."""
        return self.name in DOCKER

    @property
    def container(self) -> str:
        """The address that a docker-proxy leads to; empty for every other process."""
        if self.name != "docker-proxy" or "-container-ip" not in self.arguments[:-1]:
            return ""
        return self.arguments[self.arguments.index("-container-ip") + 1]


def holder_of(port: int, protocol: Protocol = Protocol.TCP, proc: Path = Path("/proc")) -> Holder | None:
    """The process that listens on a port; None when nobody does, or when it is hidden from us."""
    sockets = {f"socket:[{inode}]" for inode in listening_inodes(port, protocol, proc)}
    if not sockets:
        return None
    holds = (found for found in _processes(proc) if sockets & set(_descriptors(found.pid, proc)))
    found = next(holds, None)
    return found and replace(found, arguments=_arguments(found.pid, proc), ours=found.pid == _own(proc))


def _own(proc: Path) -> int:
    """This process's number there: a container's processes have others outside."""
    try:
        return int((proc / "self").readlink().name)
    except (OSError, ValueError):
        return os.getpid()


def listening_inodes(port: int, protocol: Protocol = Protocol.TCP, proc: Path = Path("/proc")) -> set[int]:
    """The inodes of the sockets that listen on a port, over IPv4 or IPv6."""
    lines = (line.split() for name in (protocol, f"{protocol}6") for line in _lines(proc / "net" / name))
    return {int(f[9]) for f in lines if f[3] == OPEN[protocol] and int(f[1].rpartition(":")[2], 16) == port}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()[1:]
    except OSError:
        return []  # tcp6 is not there where IPv6 is off


def _processes(proc: Path) -> list[Holder]:
    """All processes, Docker's first: looking through the descriptors of all others can take a while."""
    found = [holder for entry in proc.iterdir() if entry.name.isdigit() for holder in _process(entry)]
    return sorted(found, key=lambda holder: not holder.is_docker)


def _process(entry: Path) -> Iterator[Holder]:
    try:
        yield Holder(int(entry.name), (entry / "comm").read_text().strip())
    except OSError:
        return  # it has ended meanwhile


def _arguments(pid: int, proc: Path) -> tuple[str, ...]:
    try:
        return tuple((proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
    except OSError:
        return ()


def _descriptors(pid: int, proc: Path) -> Iterator[str]:
    try:
        descriptors = list(os.scandir(proc / str(pid) / "fd"))
    except OSError:
        return
    for descriptor in descriptors:
        try:
            yield os.readlink(descriptor.path)  # noqa: PTH115  a Path for each of thousands is slow
        except OSError:
            continue
