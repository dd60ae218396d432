"""A lab engine's API, spoken from outside through its socket: what bringing a lab up needs, no more."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
from typing import Any

from meshlb.errors import LabError


class Engine:
    """One dockerd. The socket is reached through /proc/<pid>/root, without entering any namespace."""

    def __init__(self, name: str, socket_path: str) -> None:
        self._name = name
        self._socket_path = socket_path

    def answers(self) -> bool:
        """Whether it takes requests."""
        try:
            return bool(self.request("GET", "/_ping", timeout=2.0) == "OK")
        except LabError:
            return False

    def get(self, path: str) -> Any:
        """The decoded answer of a GET."""
        return self.request("GET", path)

    def post(self, path: str, body: Any = None, **query: str | list[str]) -> Any:
        """POST a value as JSON (bytes as a tar), and the decoded answer."""
        return self.request("POST", path, body, query)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> Any:
        """One request; LabError with the engine's own words when it refuses or does not answer."""
        payload, kind = (
            (body, "application/x-tar") if isinstance(body, bytes) else (json.dumps(body), "application/json")
        )
        target = f"{path}?{urllib.parse.urlencode(query, doseq=True)}" if query else path
        connection = _Connection(self._socket_path, timeout)
        try:
            connection.request(method, target, payload if method == "POST" else None, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"the engine of {self._name} does not answer {method} {path}: {error}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise LabError(f"the engine of {self._name} refuses {method} {path}: {_message(text)}")
        return _decoded(text)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _message(text: str) -> str:
    decoded = _decoded(text)
    return str(decoded.get("message", text)) if isinstance(decoded, dict) else text.strip()


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
