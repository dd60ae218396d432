"""The peers: how each is started for the same routes, and which processes it consists of."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.hosts import Host

PEERS = Path(__file__).parent / "peers"
DOCKER_PROXY = "/usr/sbin/docker-proxy"
STREAM_MODULES = sorted(Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so"))
PATIENCE = 60.0  # seconds that a proxy may take to start, or to end


@dataclass(frozen=True)
class Route:
    """A port and where its connections go: addresses with ports."""

    port: int
    backends: Sequence[str]
    protocol: str = "tcp"


@dataclass
class Setting:
    """What a peer is started with."""

    host: Host
    routes: Sequence[Route]
    directory: Path
    cpus: str = ""
    prefix: Sequence[str] = ()  # a command that runs the proxy, valgrind for one
    threads: int = field(init=False)

    def __post_init__(self) -> None:
        self.threads = 1 if self.cpus else len(os.sched_getaffinity(0))


@dataclass
class Running:
    """A peer that serves."""

    setting: Setting
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    config: Path | None = None

    def pids(self) -> list[int]:
        """All its processes."""
        found = [process.pid for process in self.processes]
        for pid in found:  # grows while it is walked
            found += _children(pid)
        return found


@dataclass(frozen=True)
class Peer:
    """A proxy by its name."""

    name: str
    start: Callable[[Setting], Running]
    datagrams: bool = True
    many: bool = True  # serves many ports and backends
    reload: int = 0  # the signal after which a changed configuration counts

    @contextlib.contextmanager
    def serving(self, setting: Setting) -> Iterator[Running]:
        """The peer, once all its ports are there."""
        setting.directory.mkdir(parents=True, exist_ok=True)
        running = self.start(setting)
        try:
            _await(setting, running)
            yield running
        finally:
            _stop(running)


def render(template: str, setting: Setting, **more: object) -> Path:
    """A peer's configuration, written for these routes."""
    environment = Environment(
        loader=FileSystemLoader(PEERS),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # no HTML, and nothing that a stranger says
    )
    text = environment.get_template(template).render(
        routes=setting.routes, directory=setting.directory, threads=setting.threads, **more
    )
    path = setting.directory / template
    path.write_text(text)
    return path


def _run(setting: Setting, command: Sequence[str], config: Path | None = None) -> Running:
    log = setting.directory / "proxy.log"
    process = setting.host.start([*setting.prefix, *command], setting.cpus, log)
    return Running(setting, [process], config)


def _meshlb(setting: Setting) -> Running:
    config = render("meshlb.toml", setting)
    command = [sys.executable, "-m", "meshlb.agent", "--config", str(config), "--takeover", "never"]
    command += [
        "--workers",
        str(setting.threads),
        "--http",
        "off",
        "--socket",
        str(setting.directory / "sock"),
    ]
    return _run(setting, command, config)


def _haproxy(setting: Setting, *, splice: bool = False) -> Running:
    config = render("haproxy.cfg", setting, splice=splice)
    return _run(setting, ["haproxy", "-db", "-f", str(config)], config)


def _nginx(setting: Setting) -> Running:
    config = render("nginx.conf", setting, **nginx_options(setting))
    return _run(
        setting, ["nginx", "-c", str(config), "-e", str(setting.directory / "nginx-error.log")], config
    )


def nginx_options(setting: Setting) -> dict[str, object]:
    """What its configuration needs beside the routes."""
    return {"modules": STREAM_MODULES, "traced": bool(setting.prefix)}


def _docker_proxy(setting: Setting) -> Running:
    """One process for each port, as dockerd starts them. Descriptor 3 is where it says that it is ready."""
    running = Running(setting)
    for route in setting.routes:
        address, _, port = route.backends[0].rpartition(":")
        command = [
            DOCKER_PROXY,
            "-proto",
            route.protocol,
            "-host-ip",
            "0.0.0.0",
            "-host-port",
            str(route.port),
        ]
        command += ["-container-ip", address, "-container-port", port]
        shell = ["sh", "-c", 'exec 3>/dev/null; exec "$@"', "sh", *setting.prefix, *command]
        running.processes.append(setting.host.start(shell, setting.cpus, setting.directory / "proxy.log"))
    return running


def _dnat(setting: Setting) -> Running:
    config = render("dnat.nft", setting)
    setting.host.run(["nft", "-f", str(config)])
    return Running(setting, [], config)


PEERS_BY_NAME = {
    peer.name: peer
    for peer in (
        Peer("meshlb", _meshlb, reload=signal.SIGHUP),
        Peer("haproxy", _haproxy, datagrams=False),
        Peer("haproxy-splice", lambda setting: _haproxy(setting, splice=True), datagrams=False),
        Peer("nginx", _nginx, reload=signal.SIGHUP),
        Peer("docker-proxy", _docker_proxy, many=False),
        Peer("kernel-dnat", _dnat, many=False),
    )
}


def missing() -> list[str]:
    """The peers that this machine has not."""
    programs = {"haproxy": "haproxy", "haproxy-splice": "haproxy", "nginx": "nginx", "kernel-dnat": "nft"}
    absent = [name for name, program in programs.items() if shutil.which(program) is None]
    return absent + ([] if Path(DOCKER_PROXY).exists() else ["docker-proxy"])


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]
    return []


def _await(setting: Setting, running: Running) -> None:
    """Until its ports are there. With nothing that runs (the kernel) there is nothing to wait for."""
    if not running.processes:
        return
    wanted = {(route.protocol, route.port) for route in setting.routes}
    end = time.monotonic() + PATIENCE
    while wanted - setting.host.ports():
        ended = [process for process in running.processes if process.poll() is not None]
        if ended or time.monotonic() > end:
            log = (setting.directory / "proxy.log").read_text(errors="replace")[-800:]
            raise RuntimeError(f"{running.processes[0].args!r} does not serve: {log}")
        time.sleep(0.02)


def _stop(running: Running) -> None:
    if not running.processes:
        running.setting.host.run(["nft", "delete", "table", "ip", "meshlb-bench"])
    for process in running.processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in running.processes:
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:  # it waits for its connections to end
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
