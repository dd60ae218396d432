"""The Docker Engine's HTTP API over one connection.

The requests go through `http.client` instead of the docker SDK's session, for three reasons: the view
is asked for four times a second and a request costs 0.17 ms of CPU here and 0.8 ms there; an answer has
a bound; and another thread can end a request that hangs, the event stream's endless one included.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from meshlb.errors import EngineError
from meshlb.text import printable

TIMEOUT = 5.0  # seconds that the engine may leave a request without a byte
LARGEST = 128 << 20  # bytes of one answer: more than 20,000 tasks of a manager's, at 6 kB each
LONGEST_EVENT = 1 << 20


class AnswerError(EngineError):
    """The engine answered, with another status than 200."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Engine:
    """Where an engine is, and how to reach it."""

    dial: Callable[[], socket.socket]
    address: str

    def connection(self) -> Connection:
        """A new connection; it is dialed with its first request."""
        return Connection(self.dial, self.address)


def dial_unix(path: str) -> socket.socket:
    """A connection to the engine behind a Unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(TIMEOUT)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class Connection:
    """A keep-alive connection. One thread uses it; any other may `interrupt` it, for good."""

    def __init__(self, dial: Callable[[], socket.socket], address: str) -> None:
        self._http = _Http(dial)
        self._address, self._prefix = address, ""

    def negotiate(self) -> str:
        """The newest version that the engine speaks. There is none that all engines in use accept."""
        answer = parse(self.get("/version"), "/version")
        version = answer.get("ApiVersion") if isinstance(answer, dict) else None
        if not isinstance(version, str) or not version.replace(".", "").isdecimal():
            raise EngineError(f"{self._address} does not answer like a Docker Engine; check DOCKER_HOST")
        return version

    def speak(self, version: str) -> None:
        """Ask for this version from now on."""
        self._prefix = f"/v{version}"

    def get(self, path: str) -> bytes:
        """The body of the answer to GET `path`; EngineError says why there is none."""
        with self._explained(path):
            try:
                return self._exchange(path)
            except (http.client.RemoteDisconnected, ConnectionError):
                # Engines and proxies before them close idle connections at will: ask once more.
                if not self._http.reused:
                    raise
                self._http.close()
                return self._exchange(path)

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of an endless answer. Returns when the answer has begun; ends when the engine ends it."""
        with self._explained(path):
            response = self._begin(path)
            self._http.endless()
        return self._lines(path, response)

    def interrupt(self) -> None:
        """Make the request that is under way, and all after it, fail at once."""
        self._http.interrupt()

    def close(self) -> None:
        """Close the socket. Only for the thread that uses the connection."""
        self._http.close()

    def _lines(self, path: str, response: http.client.HTTPResponse) -> Iterator[bytes]:
        with contextlib.closing(response):
            while True:
                with self._explained(path):
                    line = response.readline(LONGEST_EVENT)
                if not line.endswith(b"\n"):
                    return
                yield line

    def _exchange(self, path: str) -> bytes:
        response = self._begin(path)
        return self._body(path, response)

    def _begin(self, path: str) -> http.client.HTTPResponse:
        self._http.request("GET", self._prefix + path)
        response = self._http.getresponse()
        if response.status != 200:
            body = self._body(path, response)
            raise AnswerError(
                response.status, f"{self._address} answered {path} with {response.status}: {_message(body)}"
            )
        return response

    def _body(self, path: str, response: http.client.HTTPResponse) -> bytes:
        body = response.read(LARGEST + 1)
        if len(body) > LARGEST:
            raise EngineError(
                f"{self._address} answered {path} with more than {LARGEST >> 20} MiB; left unread"
            )
        response.close()
        self._http.reused = True
        return body

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except EngineError as error:
            if not isinstance(error, AnswerError):
                self._http.close()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._http.close()
            raise EngineError(explain(error, self._address, path)) from error


class _Http(http.client.HTTPConnection):
    """http.client over a socket that is dialed elsewhere."""

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        super().__init__("docker", timeout=TIMEOUT)
        self._dial = dial
        self._wire: socket.socket | None = None  # http.client forgets its own when the engine will close it
        self._over = threading.Event()
        self.reused = False  # an answer was read from this socket before

    def connect(self) -> None:
        """Dial, unless `interrupt` came first; it may come at any point."""
        self.reused = False
        if self._over.is_set():
            raise ConnectionAbortedError("interrupted")
        self.sock = self._wire = self._dial()
        if self._over.is_set():
            self.interrupt()

    def endless(self) -> None:
        """Wait for the rest of the answer for ever: an idle engine has no events."""
        if self._wire is not None:
            self._wire.settimeout(None)

    def interrupt(self) -> None:
        """End what is under way, from another thread, and refuse what comes."""
        self._over.set()
        wire = self._wire
        if wire is not None:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)


def explain(error: Exception, address: str, path: str) -> str:
    """One sentence about a failed request, with what to do."""
    if isinstance(error, PermissionError):
        return f"permission denied on {address}: run as root or add the user to group docker"
    if isinstance(error, FileNotFoundError):
        return f"no Docker Engine at {address}: start it (systemctl start docker) or set DOCKER_HOST"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {address}: start Docker (systemctl start docker) or set DOCKER_HOST"
    if isinstance(error, TimeoutError):
        return f"{address} does not answer {path} within {TIMEOUT:g} s; see journalctl -u docker"
    if isinstance(error, OSError | http.client.RemoteDisconnected | http.client.IncompleteRead):
        return f"{address} broke off its answer to {path} ({error}); see journalctl -u docker"
    return f"{address} answered {path} with something that is not HTTP; check DOCKER_HOST"


def parse(body: bytes, what: str) -> object:
    """The value of a JSON body; EngineError when it is none."""
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"the engine answered {what} with something that is not JSON") from error
    return value


def _message(body: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        answer = json.loads(body)
        if isinstance(answer, dict) and isinstance(answer.get("message"), str):
            return printable(answer["message"], 500) or "no reason given"
    return "no reason given"
