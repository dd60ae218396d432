"""What the agent of a node says of itself, asked over its HTTP."""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import click

from meshlb.cli.mesh_rows import Look
from meshlb.cli.parameters import Parsed
from meshlb.errors import ConfigError, MeshError

DEFAULT = "http://127.0.0.1:9377"
PATIENCE = 10.0  # seconds
LARGEST = 64 * 2**20  # bytes of an answer

_EXAMPLE = "MESHLB_AGENT=https://NAME:PASSWORD@node2:9377"

Json = dict[str, Any]


class AgentError(MeshError):
    """The agent does not answer, or says what is not an agent's."""


@dataclass(frozen=True, slots=True)
class AgentView:
    """The agent at `url`; `password` is what it is told of who asks, `NAME:PASSWORD`."""

    url: str
    password: str = field(default="", repr=False)

    def status(self) -> Json:
        """/api/v1/status: ports, services with their backends, nodes, problems."""
        return self._get("/api/v1/status")

    def counts(self) -> Json:
        """/api/v1/counts: what was counted of each port and backend."""
        return self._get("/api/v1/counts")

    def look(self) -> Look:
        """Both, and when that was."""
        return Look(self.status(), self.counts(), time.monotonic())

    def _get(self, path: str) -> Json:
        # The environment's proxies are for the world outside, not for this node.
        try:
            with build_opener(ProxyHandler({})).open(self._request(path), timeout=PATIENCE) as answer:
                found = json.loads(answer.read(LARGEST))
        except HTTPError as error:
            if error.code in (401, 429):
                raise AgentError(f"the agent at {self.url} asks for a password: {_EXAMPLE}") from error
            raise AgentError(f"what answers at {self.url} is not a meshlb-agent that knows {path}") from error
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                said = f"{reason.verify_message}; SSL_CERT_FILE names the authority's, or its own"
                raise AgentError(
                    f"the certificate of the agent at {self.url} is not trusted: {said}"
                ) from error
            why = getattr(reason, "strerror", None) or reason
            raise AgentError(
                f"no agent answers at {self.url} ({why}): is it running? "
                "(`systemctl status meshlb-agent`; --agent or MESHLB_AGENT says where its --http is)"
            ) from error
        except (ValueError, HTTPException) as error:
            raise AgentError(f"what answers at {self.url} is not a meshlb-agent") from error
        if not isinstance(found, dict):
            raise AgentError(f"what answers at {self.url} is not a meshlb-agent")
        return found

    def _request(self, path: str) -> Request:
        coded = base64.b64encode(self.password.encode()).decode()
        return Request(self.url + path, headers={"Authorization": f"Basic {coded}"} if self.password else {})  # noqa: S310


def _view(text: str) -> AgentView:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
    except ValueError:
        good = False
    if not good:
        shown = text.rpartition("@")[2]  # without a password
        raise ConfigError(f'"{shown}" is not ADDRESS:PORT, such as 127.0.0.1:9377')
    who, at, place = parts.netloc.rpartition("@")
    return AgentView(f"{parts.scheme}://{place}{parts.path.rstrip('/')}", unquote(who) if at else "")


def default() -> AgentView:
    """The agent of MESHLB_AGENT, or of this node."""
    return _view(os.environ.get("MESHLB_AGENT", DEFAULT))


option = click.option(
    "--agent",
    "agent",
    default=lambda: os.environ.get("MESHLB_AGENT", DEFAULT),
    show_default="MESHLB_AGENT, or 127.0.0.1:9377",
    metavar="ADDRESS:PORT",
    type=Parsed(_view, "address"),
    help="Where the agent's --http is; https://NAME:PASSWORD@ADDRESS:PORT where it asks for that",
)
