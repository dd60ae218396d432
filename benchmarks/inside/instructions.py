"""How many instructions a thing takes, by valgrind: the same on every machine with the same programs.

Each is run in two processes, with more repetitions in the second: what is not repeated cancels out.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE = 120.0  # seconds; valgrind makes things fifty times slower
SHORT, OFTEN = frozenset(("policy", "policy_mistakes")), (5, 25)
CONNECTIONS = (100, 500)
_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def of_case(name: str) -> int:
    """Instructions of one run of a case."""
    few, many = OFTEN if name in SHORT else (1, 2)
    return _each(lambda times: _case(name, times), few, many)


def _each(total: Callable[[int], int], few: int, many: int) -> int:
    with ThreadPoolExecutor() as pool:
        least, most = pool.map(total, (few, many))
    return (most - least) // (many - few)


def _case(name: str, times: int) -> int:
    with valgrind("one.py", name, str(times)) as counted:
        counted.process.communicate()
    return counted.total


def of_connection(balancer: str) -> int:
    """Instructions of the plane for a short connection to one of 50 backends that the balancer picks."""
    return _each(lambda times: _connections(balancer, times), *CONNECTIONS)


def _connections(balancer: str, times: int) -> int:
    with backend() as behind, valgrind("serving.py", balancer, str(behind)) as counted:
        assert counted.process.stdout
        port = int(counted.process.stdout.readline())
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                client.sendall(b"x")
                assert client.recv(2) == b"y"
                assert client.recv(1) == b""
        counted.process.communicate()
    return counted.total


@dataclass
class Counted:
    """A process under valgrind; `total` is known when it has ended."""

    process: subprocess.Popen[bytes]
    total: int = 0


@contextlib.contextmanager
def valgrind(script: str, *arguments: str) -> Iterator[Counted]:
    """One of our scripts under callgrind, which the block has to see to its end."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet"]
        command += [sys.executable, str(HERE / script), *arguments]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as process:
            counted = Counted(process)
            yield counted
        assert process.returncode == 0, f"{script} {' '.join(arguments)} has failed"
        counted.total = max(int(number) for number in _TOTAL.findall(out.read_text()))


@contextlib.contextmanager
def backend() -> Iterator[int]:
    """A server on all of loopback's addresses that answers with a byte and closes; its port."""
    with socket.create_server(("0.0.0.0", 0), backlog=1024) as listener:
        thread = threading.Thread(target=_accept, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket) -> None:
    """At once, without a thread for each: the plane takes another way when an answer is late."""
    with contextlib.suppress(OSError):  # closed: it is over
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(b"y")
