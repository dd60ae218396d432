"""What the agent of a node says of itself, asked over its HTTP."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import click

from meshlb.cli.parameters import Parsed
from meshlb.errors import ConfigError, MeshError

DEFAULT = "http://127.0.0.1:9377"
PATIENCE = 10.0  # seconds
LARGEST = 64 * 2**20  # bytes of an answer

Json = dict[str, Any]


class AgentError(MeshError):
    """The agent does not answer, or says what is not an agent's."""


@dataclass(frozen=True, slots=True)
class AgentView:
    """The agent at `url`."""

    url: str

    def status(self) -> Json:
        """/api/v1/status: ports, services with their backends, nodes, problems."""
        return self._get("/api/v1/status")

    def counts(self) -> Json:
        """/api/v1/counts: what was counted of each port and backend."""
        return self._get("/api/v1/counts")

    def _get(self, path: str) -> Json:
        # The environment's proxies are for the world outside, not for this node.
        try:
            with build_opener(ProxyHandler({})).open(self.url + path, timeout=PATIENCE) as answer:
                found = json.loads(answer.read(LARGEST))
        except HTTPError as error:
            raise AgentError(f"what answers at {self.url} is not a meshlb-agent that knows {path}") from error
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            why = getattr(reason, "strerror", None) or reason
            raise AgentError(
                f"no agent answers at {self.url} ({why}): is it running? "
                "(`systemctl status meshlb-agent`; --agent or MESHLB_AGENT says where its --http is)"
            ) from error
        except ValueError as error:
            raise AgentError(f"what answers at {self.url} is not a meshlb-agent") from error
        if not isinstance(found, dict):
            raise AgentError(f"what answers at {self.url} is not a meshlb-agent")
        return found


def _view(text: str) -> AgentView:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        good = parts.scheme == "http" and bool(parts.hostname) and parts.port is not None
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f'"{text}" is not ADDRESS:PORT, such as 127.0.0.1:9377')
    return AgentView(url.rstrip("/"))


option = click.option(
    "--agent",
    "agent",
    default=lambda: os.environ.get("MESHLB_AGENT", DEFAULT),
    show_default="MESHLB_AGENT, or 127.0.0.1:9377",
    metavar="ADDRESS:PORT",
    type=Parsed(_view, "address"),
    help="Where the agent's --http is",
)
