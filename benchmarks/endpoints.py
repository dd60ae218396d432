"""The processes at both ends, `python -m benchmarks.endpoints ROLE JSON` in the client's or server's host."""

from __future__ import annotations

import json
import resource
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import _load

KEPT, CLOSED, LARGE, DATAGRAMS = 8001, 8002, 8003, 8004  # the server's ports
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: meshlb-bench\r\n\r\n"
SMALL_BODY, LARGE_BODY = 128, 64 << 10


def reply(size: int) -> bytes:
    """An answer with so many bytes of body."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + b"x" * size


def serve() -> None:
    """All of the server's TCP ports."""
    server = _load.Server()
    listeners = []
    for port, size, closes in (
        (KEPT, SMALL_BODY, False),
        (CLOSED, SMALL_BODY, True),
        (LARGE, LARGE_BODY, False),
    ):
        listener = socket.create_server(("0.0.0.0", port), backlog=65535)
        listener.setblocking(False)
        server.add(listener.fileno(), reply(size), closes)
        listeners.append(listener)
    server.run()


def echo(host: str) -> None:
    """Datagrams back, from the address that they were sent to: proxies take them from no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((host, DATAGRAMS))
        _load.echo_datagrams(sock.fileno())


def churn(host: str, port: int, connections: int, seconds: float, total: int = 0) -> object:
    """Short connections."""
    return _load.Load(host, port, REQUEST, len(reply(SMALL_BODY))).churn(connections, seconds, total)


def paced(host: str, port: int, connections: int, rate: float, seconds: float) -> object:
    """Requests by the clock."""
    return _load.Load(host, port, REQUEST, len(reply(SMALL_BODY))).paced(connections, rate, seconds)


def ping(host: str, port: int, *, size: int, sockets: int, window: int, seconds: float) -> object:
    """Datagrams there and back."""
    return _load.ping_datagrams(host, port, size, sockets, window, seconds)


def hold(host: str, port: int, connections: int) -> object:
    """Idle connections until standard input ends. It says when all are there: each has had an answer."""
    held = []
    for _ in range(connections):
        held.append(socket.create_connection((host, port), timeout=10))
        held[-1].sendall(REQUEST)
        held[-1].recv(4096)
    print(json.dumps({"held": len(held)}), flush=True)
    sys.stdin.read()
    return None


def first(host: str, port: int, seconds: float) -> object:
    """How long until a port answers, from the time that `seconds` is on the monotonic clock."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, port), timeout=1) as connection:
                connection.sendall(REQUEST)
                if connection.recv(4096):
                    return {"seconds": time.monotonic() - seconds}
        except OSError:
            time.sleep(0.0005)
    raise SystemExit("no answer within 30 s")


ROLES: dict[str, Callable[..., object]] = {
    "serve": serve,
    "echo": echo,
    "churn": churn,
    "paced": paced,
    "ping": ping,
    "hold": hold,
    "first": first,
}


def main(role: str, given: str = "{}") -> None:
    """Play a role."""
    limit = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    options: dict[str, Any] = json.loads(given)
    print(json.dumps(ROLES[role](**options)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
