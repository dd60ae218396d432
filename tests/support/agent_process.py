"""A meshlb-agent with a static file as a process, and backends for it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ports
from waiting import eventually

PAUSE = 0.01  # seconds between the new connections of a load
START = 30.0  # seconds for anything that needs the process to come up; a busy machine is slow

LISTEN = "0A"  # a socket's state in /proc/net/tcp


def free_port() -> int:
    return ports.free()


class Backend:
    """Says its name to whoever connects, then echoes. One connection at a time is served by each accept."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> socket.socket:
        self.listener.settimeout(START)
        connection, _ = self.listener.accept()
        connection.settimeout(START)
        connection.sendall(self.name.encode())
        return connection


class Agent:
    """A meshlb-agent process."""

    def __init__(
        self, directory: Path, *, prefix: tuple[str, ...] = (), loop: str = "auto", workers: int = 2
    ) -> None:
        self.file = directory / "mesh.toml"
        self.log = directory / "agent.log"
        self.http = free_port()
        self.command = [*prefix, sys.executable, "-m", "meshlb.agent", "--config", str(self.file)]
        self.command += ["--http", f"127.0.0.1:{self.http}", "--takeover", "never", "--loop", loop]
        self.command += ["--workers", str(workers), "--socket", str(directory / "agent.sock")]
        self.command += ["--state-dir", str(directory / "state")]
        self.port = 0
        self.in_reach = True  # False: in another network, where its status cannot be asked for
        self.process: subprocess.Popen[bytes] | None = None
        self.begun: list[subprocess.Popen[bytes]] = []

    def publish(self, ports: dict[int, Backend]) -> None:
        entry = '[[port]]\npublished = {}\nservice = "{}"\nbackends = ["{}"]\n'
        self.write("".join(entry.format(port, one.name, one.address) for port, one in ports.items()))

    def publishes(self, ports: dict[int, int]) -> None:
        """Ports of loopback with the backends' ports; the first is `port`."""
        entry = '[[port]]\npublished = {}\nservice = "s{}"\nbackends = ["127.0.0.1:{}"]\n'
        self.write("".join(entry.format(port, port, backend) for port, backend in ports.items()))
        self.port = next(iter(ports))

    def end_all(self) -> None:
        """Kill what is still running of what was begun here."""
        for one in self.begun:
            if one.poll() is None:
                one.kill()
            one.wait()

    def write(self, text: str) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.file)

    def start(self, *options: str) -> None:
        self.process = self.begin(*options)
        eventually(self._tells_ports, timeout=START, what=f"the agent to serve; it says: {self.said()}")

    def begin(self, *options: str) -> subprocess.Popen[bytes]:
        """One more such process."""
        with self.log.open("ab") as log:
            self.begun.append(
                subprocess.Popen([*self.command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
        return self.begun[-1]

    def _tells_ports(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        if not self.in_reach:
            return f"port {self.port}/tcp of service" in self.said()
        try:
            return bool(self.status()["ports"])
        except OSError:
            return False

    def status(self, path: str = "/api/v1/status") -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=START)
        try:
            connection.request("GET", path)
            found = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert isinstance(found, dict)
        return found

    def states(self) -> dict[str, str]:
        return {port["service"]: port["state"] for port in self.status()["ports"]}

    def reason(self, service: str) -> str:
        return next(str(port["reason"]) for port in self.status()["ports"] if port["service"] == service)

    def said(self) -> str:
        return self.log.read_text()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def heir(self, *options: str) -> subprocess.Popen[bytes]:
        """An agent that takes over from this one, and has done so; it is `process` from now on."""
        before, self.process = self.process, self.begin("--replace", *options)
        assert before is not None
        eventually(self._has_taken_over, timeout=START, what="the new agent to take over")
        return before

    def _has_taken_over(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        return f"process {self.process.pid} has taken over" in self.said()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(START)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), START)


def listens(port: int) -> bool:
    """Whether anybody listens at this port, in this network; without a connection that might wait there."""
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    rows = (line.split() for table in tables for line in table.read_text().splitlines()[1:])
    return any(row[1].endswith(f":{port:04X}") and row[3] == LISTEN for row in rows)


def reaches(port: int, backend: Backend) -> bool:
    """Whether the published port leads to this backend."""
    with connect(port) as client, backend.accept():
        return client.recv(100) == backend.name.encode()


class Load:
    """New connections, one after the other, from several threads; every failure with its reason."""

    def __init__(self, port: int, threads: int = 2) -> None:
        self.port, self.failures, self.count, self.slowest = port, list[str](), 0, 0.0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.wait(PAUSE):
            began = time.monotonic()
            try:
                with connect(self.port) as client:
                    client.sendall(b"hello")
                    answer = client.recv(5, socket.MSG_WAITALL)
                    if answer != b"hello":
                        self.failures.append(f"answered {answer!r}")
            except OSError as error:
                self.failures.append(repr(error))
            self.count += 1
            self.slowest = max(self.slowest, time.monotonic() - began)


class Talks:
    """Connections that stay open and say something from time to time."""

    def __init__(self, port: int, count: int) -> None:
        self.clients = [connect(port) for _ in range(count)]
        self.say("first")

    def say(self, text: str) -> None:
        for client in self.clients:
            client.sendall(text.encode())
        for client in self.clients:
            assert client.recv(len(text), socket.MSG_WAITALL) == text.encode()

    def close(self) -> None:
        for client in self.clients:
            client.close()


def is_refused(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it waited to be accepted while the listener was closed
        return False
    return False
