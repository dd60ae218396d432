"""A plane in a process of its own, so that its memory, its descriptors and its faults are its alone.

Serves one port of TCP and one of UDP, both with the same backends on loopback, and prints their numbers;
answers every line of its input with what a test may want to know, or with two more ports.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mesh import Mesh, backend, exactly, free_port

from meshlb.model import Port, Protocol
from meshlb.policy import from_settings
from meshlb.table import Table


def raise_limit(descriptors: int = 0) -> None:
    """As the agent does when it starts; or to less."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors or hard, hard))


def own_memory() -> int:
    """Bytes that no other process shares."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


def main() -> None:
    descriptors, settings, *numbers = sys.argv[1:]
    raise_limit(int(descriptors))
    mesh = Mesh()
    udp = Port(free_port(), 53, Protocol.UDP)
    backends = [backend(int(number)) for number in numbers]
    policy, problems = from_settings(json.loads(settings).items(), "")
    assert not problems, problems
    entries = [mesh.entry(*backends, policy=policy), mesh.entry(*backends, port=udp)]
    mesh.plane.apply(Table(tuple(entries)))
    print(mesh.port.published, udp.published, flush=True)
    for line in sys.stdin:
        if line.strip() == "publish":
            more = Port(free_port(), 80), Port(free_port(), 53, Protocol.UDP)
            entries += [mesh.entry(*backends, port=port) for port in more]
            mesh.plane.apply(Table(tuple(entries)))
            print(json.dumps([port.published for port in more]), flush=True)
        else:
            print(json.dumps(look(mesh, udp)), flush=True)
    mesh.plane.stop()


def look(mesh: Mesh, udp: Port) -> dict[str, Any]:
    """What `PlaneProcess.look` gives."""
    return {
        "memory": own_memory(),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "open": mesh.counters().open,
        "tcp": asdict(mesh.port_counts()),
        "udp": asdict(mesh.port_counts(udp)),
    }


class PlaneProcess:
    """The same, from outside."""

    def __init__(
        self,
        *backend_ports: int,
        descriptors: int = 0,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` are the policy of the port of TCP, as labels would have them."""
        command = [sys.executable, __file__, str(descriptors), json.dumps(dict(settings or {}))]
        command += map(str, backend_ports)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.pid = self._process.pid
        self.port, self.udp_port = map(int, self._line().split())

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def look(self) -> Any:
        """Bytes of memory that are its own, its descriptors, open connections and flows, and its counts."""
        return self._asked("")

    def publish(self) -> tuple[int, int]:
        """One more port of TCP and one of UDP, which `look` does not tell of."""
        tcp, udp = self._asked("publish")
        return tcp, udp

    def _asked(self, line: str) -> Any:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def close(self) -> None:
        """Ends it; it has to end well."""
        self._process.communicate()
        assert self._process.returncode == 0


@contextlib.contextmanager
def quiet_echo() -> Iterator[int]:
    """A server for thousands of idle connections, in one thread; its port."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=4096) as listener,
        selectors.DefaultSelector() as ready,
    ):
        ready.register(listener, selectors.EVENT_READ)
        stop = threading.Event()
        thread = threading.Thread(target=serve_quietly, args=(listener, ready, stop))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def serve_quietly(listener: socket.socket, ready: selectors.BaseSelector, stop: threading.Event) -> None:
    while not stop.is_set():
        for key, _ in ready.select(0.1):
            if key.fileobj is listener:
                ready.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if not echoed(connection):
                ready.unregister(connection)
                connection.close()
    for key in list(ready.get_map().values()):
        if isinstance(key.fileobj, socket.socket) and key.fileobj is not listener:
            key.fileobj.close()


def echoed(connection: socket.socket) -> bool:
    """Whether there was something to echo, and not the end."""
    try:
        data = connection.recv(1024)
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return bool(data)


def exchange(port: int, address: str = "127.0.0.1") -> socket.socket:
    """A connection that has said something and was answered."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.create_connection((address, port), 30))
        client.sendall(b"x" * 64)
        assert len(exactly(client, 64)) == 64
        stack.pop_all()
    return client


if __name__ == "__main__":
    main()
