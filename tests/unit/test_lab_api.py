"""The engine's API through its socket: answers, refusals and silence."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from meshlb.lab import LabError
from meshlb.lab.api import Engine


class _Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        status, text = {
            "/_ping": (200, "OK"),
            "/info": (200, '{"Name": "n"}'),
            "/refuse": (503, '{"message": "This node is not a swarm manager."}'),
            "/plain": (500, "on fire\n"),
            "/list": (500, "[1]"),
        }.get(self.path, (200, f'"{self.command} {self.path} {self.headers["Content-Type"]} {body}"'))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _answer  # noqa: N815  http.server's names

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine that answers from a list."""
    with socketserver.UnixStreamServer(str(tmp_path / "sock"), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Engine("node1", str(tmp_path / "sock"))
        server.shutdown()
        thread.join()


def test_json_is_decoded(engine: Engine) -> None:
    assert engine.answers()
    assert engine.get("/info") == {"Name": "n"}


def test_a_tar_goes_as_it_is(engine: Engine) -> None:
    assert engine.post("/x", b"tar", a="1", b=["2", "3"]) == "POST /x?a=1&b=2&b=3 application/x-tar tar"
    assert engine.post("/y", 7) == "POST /y application/json 7"


@pytest.mark.parametrize(
    ("path", "words"),
    [("/refuse", "This node is not a swarm manager."), ("/plain", "on fire"), ("/list", "[1]")],
)
def test_a_refusal_is_told_in_the_engines_words(engine: Engine, path: str, words: str) -> None:
    with pytest.raises(LabError) as caught:
        engine.get(path)
    assert str(caught.value) == f"the engine of node1 refuses GET {path}: {words}"


def test_silence_is_said(tmp_path: Path) -> None:
    engine = Engine("node1", str(tmp_path / "none"))
    assert not engine.answers()
    with pytest.raises(LabError, match=r"the engine of node1 does not answer GET /info: .*No such file"):
        engine.get("/info")
