"""Client, proxy and server: three network namespaces with cables between them, or one for all."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_WAITING = {"tcp": "0A", "udp": "07"}  # states in /proc/net: TCP_LISTEN, TCP_CLOSE
BACKENDS = "127.72.0.0/16"  # that the server answers on loopback: all of 127.0.0.0/8 is its own
REMOTE_BACKENDS = "10.72.0.0/16"

# The same for every peer: room for ports that wait out TIME_WAIT, for queues, and for many open files.
_SYSCTLS = (
    "net.ipv4.ip_local_port_range=1025 65000",
    "net.ipv4.ip_local_reserved_ports=5201-5202,8001-8004,20000-22000",  # listened on
    "net.ipv4.tcp_tw_reuse=1",
    "net.core.somaxconn=65535",
    "net.ipv4.tcp_max_syn_backlog=65535",
    "net.ipv4.ip_forward=1",
)


@dataclass(frozen=True)
class Host:
    """A network namespace."""

    name: str

    def command(self, command: Sequence[str], cpus: str = "") -> list[str]:
        """The same to be run in it, on these CPUs."""
        pinned = ["taskset", "-c", cpus] if cpus else []
        return ["ip", "netns", "exec", self.name, *pinned, *command]

    def start(
        self, command: Sequence[str], cpus: str = "", log: Path | None = None, pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """A process of its own session; what it says goes to `log`."""
        with (log or Path(os.devnull)).open("ab") as out:
            return subprocess.Popen(
                self.command(command, cpus),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    def run(self, command: Sequence[str], cpus: str = "", timeout: float = 120) -> str:
        """What a command says."""
        done = subprocess.run(
            self.command(command, cpus),
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout

    def ports(self) -> set[tuple[str, int]]:
        """Where anybody listens for connections or waits for datagrams: protocols with ports."""
        found = set()
        for protocol in ("tcp", "udp"):
            tables = self.run(["cat", f"/proc/net/{protocol}", f"/proc/net/{protocol}6"])
            for row in (line.split() for line in tables.splitlines()):
                if len(row) > 3 and row[3] == _WAITING[protocol]:
                    found.add((protocol, int(row[1].rpartition(":")[2], 16)))
        return found


@dataclass(frozen=True)
class Hosts:
    """Who is where. `front` is the proxy's address for clients, `direct` the server's without a proxy."""

    topology: str
    client: Host
    proxy: Host
    server: Host
    front: str
    direct: str
    backends: str  # the first two bytes of what the server answers on

    def backend(self, number: int = 0) -> str:
        """One of the server's many addresses."""
        return f"{self.backends}.{number // 250}.{number % 250 + 1}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def _namespaces(*roles: str) -> Iterator[list[Host]]:
    hosts = [Host(f"meshlb-bench-{os.getpid()}-{role}") for role in roles]
    with contextlib.ExitStack() as stack:
        for host in hosts:
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "del", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
            host.run(["sysctl", "-qw", *_SYSCTLS])
        yield hosts


def _cable(one: Host, its: str, other: Host, others: str) -> None:
    name = f"to-{other.name.rpartition('-')[2]}", f"to-{one.name.rpartition('-')[2]}"
    _ip("link", "add", name[0], "netns", one.name, "type", "veth", "peer", name[1], "netns", other.name)
    for host, link, address in ((one, name[0], its), (other, name[1], others)):
        _ip("-n", host.name, "address", "add", f"{address}/24", "dev", link)
        _ip("-n", host.name, "link", "set", link, "up")


@contextlib.contextmanager
def wire() -> Iterator[Hosts]:
    """client - proxy - server, and a cable from the client to the server for what needs no proxy."""
    with _namespaces("client", "proxy", "server") as (client, proxy, server):
        _cable(client, "10.71.1.2", proxy, "10.71.1.1")
        _cable(proxy, "10.71.2.1", server, "10.71.2.2")
        _cable(client, "10.71.3.2", server, "10.71.3.1")
        _ip("-n", server.name, "route", "add", "local", REMOTE_BACKENDS, "dev", "lo")
        _ip("-n", proxy.name, "route", "add", REMOTE_BACKENDS, "via", "10.71.2.2")
        _ip("-n", server.name, "route", "add", "10.71.1.0/24", "via", "10.71.2.1")
        yield Hosts("wire", client, proxy, server, "10.71.1.1", "10.71.3.1", "10.72")


@contextlib.contextmanager
def loopback() -> Iterator[Hosts]:
    """All on one host."""
    with _namespaces("host") as (host,):
        yield Hosts("loopback", host, host, host, "127.0.0.1", "127.0.0.1", "127.72")


TOPOLOGIES = {"wire": wire, "loopback": loopback}
