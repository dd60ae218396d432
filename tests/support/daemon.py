"""A Docker daemon that answers from a table: real HTTP on a real socket, so that the real SDK is tested."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """What a client asked: the path without the API version, the query with its first values, the body."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str] = field(default_factory=dict)  # by names in lower case


@dataclass
class Refusal:
    """An error of the daemon."""

    status: int
    message: str


@dataclass
class Daemon:
    """`answers` are by "METHOD /path": a value, a Refusal, or a function of the request."""

    address: str
    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests of one kind so far."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]


class _Silent(socketserver.ThreadingMixIn, socketserver.BaseServer):
    def handle_error(self, *_: Any) -> None:
        """Whoever is not let in is no news."""


class _Server(_Silent, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    table: Daemon


class _TLSServer(_Silent, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    table: Daemon


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server | _TLSServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        versioned = parts.path.split("/", 2)
        path = f"/{versioned[2]}" if versioned[1].startswith("v1.") else parts.path
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, query, body, headers)
        self.server.table.requests.append(request)
        self._answer(self.server.table.answers.get(f"{self.command} {path}"), request)

    do_POST = do_DELETE = do_GET  # noqa: N815

    def _answer(self, answer: Any, request: Request) -> None:
        if callable(answer):
            answer = answer(request)
        if answer is None:
            answer = Refusal(404, f"no answer for {request.method} {request.path}")
        status, value = 200, answer
        if isinstance(answer, Refusal):
            status, value = answer.status, {"message": answer.message}
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def address_string(self) -> str:
        """A UNIX socket's client has no address."""
        return "client"


def running(folder: Path) -> AbstractContextManager[Daemon]:
    """A daemon on a socket in `folder`, gone at the end."""
    path = folder / "docker.sock"
    return _serving(_Server(str(path), _Handler), f"unix://{path}")


def running_tls(context: ssl.SSLContext) -> AbstractContextManager[Daemon]:
    """One on a port of TCP, for who speaks TLS."""
    server = _TLSServer(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return _serving(server, f"tcp://localhost:{server.server_address[1]}")


@contextmanager
def _serving(server: _Server | _TLSServer, address: str) -> Iterator[Daemon]:
    table = Daemon(address, {"GET /version": {"ApiVersion": "1.41", "Version": "20.10.24"}})
    with server:
        server.table = table
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield table
        finally:
            server.shutdown()
            thread.join()
