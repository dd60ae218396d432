"""A Docker Engine made of a script: HTTP over a unix socket, answers recorded from a real 20.10 swarm."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import queue
import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

_RECORDED = Path(__file__).parent / "recorded" / "engine-20.10.json"


def recorded() -> dict[str, Any]:
    """What a real engine answered: a fresh copy, to be changed at will."""
    answers: dict[str, Any] = json.loads(_RECORDED.read_text())
    return answers


# The recorded nodes' addresses, and those that they may have for their data.
DATA = {"10.211.0.1": "172.16.0.1", "10.211.0.2": "172.16.0.2"}


def with_data_path(view: dict[str, Any]) -> dict[str, Any]:
    """The view of a Swarm whose nodes were given addresses for their data."""
    found = copy.deepcopy(view)
    for service in found["Services"].values():
        for task in service["Tasks"]:
            task["Info"]["Host IP"] = DATA[task["Info"]["Host IP"]]
    return found


class FakeEngine:
    """Serves `path` as dockerd would. Everything that a test wants it to say or do is an attribute.

    `answers` maps the path's first word to a value (sent as JSON), bytes (sent as they are) or a pair of
    status and value. `hang` makes it accept and never answer, `mute` are paths on which it hangs. Answers
    to paths in `held` say what was so when they were asked for, and come when that event is set.
    """

    def __init__(self, path: Path, *, manager: bool = False) -> None:
        self.path = path
        self.version = "1.41"
        self.hang = False
        self.mute: set[str] = set()
        self.held: dict[str, threading.Event] = {}
        self.asked: list[str] = []  # request targets, in order
        self.connections = 0
        self.answers: dict[str, Any] = {}
        self.set_manager(manager)
        self._server: _Server | None = None
        self._released = threading.Event()
        self._streams: list[queue.Queue[bytes | None]] = []

    def set_manager(self, manager: bool) -> None:
        """Play the recorded manager, or the recorded worker."""
        real = recorded()
        self.answers = {
            "version": real["version"],
            "info": real["info_manager" if manager else "info_worker"],
            "networks": [network for network in real["networks"] if network["Scope"] == "swarm"],
            "view": real["view"],
            "services": real["services"] if manager else (503, real["not_a_manager"]),
            "nodes": real["nodes"] if manager else (503, real["not_a_manager"]),
            "containers": [],
            "tasks": None if manager else (503, real["not_a_manager"]),  # None: those of the view
        }

    @property
    def url(self) -> str:
        """What the docker SDK takes as base_url."""
        return f"unix://{self.path}"

    @property
    def services(self) -> dict[str, Any]:
        """The services of the view, for a test to change."""
        services: dict[str, Any] = self.answers["view"]["Services"]
        return services

    @property
    def tasks(self) -> list[str]:
        """The ids of the tasks in the view."""
        services = self.answers["view"]["Services"].values()
        return [task["Name"].rpartition(".")[2] for service in services for task in service["Tasks"]]

    def view(self) -> dict[str, Any]:
        """A copy of the view; put a changed one into `answers["view"]` at once, as an engine would."""
        return copy.deepcopy(self.answers["view"])

    def emit(self, event: dict[str, Any] | bytes) -> None:
        """Send an event to everyone who listens."""
        line = event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
        for stream in list(self._streams):
            stream.put(line)

    def end_events(self) -> None:
        """End every event stream."""
        for stream in list(self._streams):
            stream.put(None)

    @property
    def listeners(self) -> int:
        """How many event streams are open."""
        return len(self._streams)

    def count(self, word: str) -> int:
        """How often a path with `word` was asked for."""
        return sum(word in target for target in self.asked)

    def start(self) -> None:
        """Listen."""
        self._released.clear()
        self._server = _Server(str(self.path), self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Be gone, as a killed dockerd: the socket file stays, connections break."""
        if self._server is None:
            return
        server, self._server = self._server, None
        self._released.set()
        self.end_events()
        server.shutdown()
        server.server_close()
        server.break_connections()

    def __enter__(self) -> FakeEngine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def restart(self) -> None:
        """Stop and start again."""
        self.stop()
        self.start()

    def respond(self, handler: _Handler, target: str) -> None:
        """Answer one request."""
        path = target.partition("?")[0]
        if path != "/version":
            prefix = f"/v{self.version}"
            assert path.startswith(prefix), f"{target} is not of version {self.version}"
            path = path.removeprefix(prefix)
        word = "view" if path.startswith("/networks/") else path.split("/")[1]
        if self.hang or word in self.mute:
            self._released.wait()
            handler.close_connection = True
            return
        if word == "events" and word not in self.answers:
            self._stream(handler)
            return
        answer = self.answers.get(word, (404, {"message": "page not found"}))
        if word == "tasks" and answer is None:
            answer = [{"ID": task} for task in self.tasks]
        status, value = answer if isinstance(answer, tuple) else (200, answer)
        body = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
        if word in self.held:
            self.held[word].wait()
        handler.reply(status, body)

    def _stream(self, handler: _Handler) -> None:
        lines: queue.Queue[bytes | None] = queue.Queue()
        self._streams.append(lines)
        try:
            handler.begin_stream()
            while (line := lines.get()) is not None:
                handler.chunk(line)
            handler.chunk(b"")
        finally:
            self._streams.remove(lines)
            handler.close_connection = True


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, engine: FakeEngine) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
        self.engine = engine
        self._open: set[socket.socket] = set()
        super().__init__(path, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.engine.connections += 1
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that vanish are part of the play."""

    def break_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.engine.asked.append(self.path)
        self.server.engine.respond(self, self.path)

    def reply(self, status: int, body: bytes) -> None:
        """A whole answer. Large ones are chunked, as dockerd's are."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if len(body) < 2048:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(body), 32768):
            self.chunk(body[start : start + 32768])
        self.chunk(b"")

    def begin_stream(self) -> None:
        """The head of an endless answer."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def chunk(self, data: bytes) -> None:
        """One chunk; an empty one ends the answer."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silence."""


@contextlib.contextmanager
def running(path: Path, *, manager: bool = False) -> Iterator[FakeEngine]:
    """A fake engine that listens."""
    with FakeEngine(path, manager=manager) as engine:
        yield engine
