"""Asking this node's agent for something, at its own socket: whoever may connect may ask."""

from __future__ import annotations

import os
from pathlib import Path

import click

from meshlb.config import SOCKET
from meshlb.errors import ConfigError, MeshError
from meshlb.handover import agent_socket
from meshlb.handover.giving import Conversation

VARIABLE = "MESHLB_SOCKET"
PATIENCE = 20.0  # seconds: an agent that hands over answers when that is done

socket_option = click.option(
    "--socket",
    "socket_",
    default=str(SOCKET),
    show_default=True,
    envvar=VARIABLE,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The agent's own --socket",
)


def usual() -> Path:
    """Where the agent of this node is asked, for who has no --socket."""
    return Path(os.environ.get(VARIABLE) or SOCKET)


def ask(path: Path, word: str, **details: object) -> str:
    """The agent's sentence; MeshError with its words when it refuses."""
    with connected(path) as talk:
        return asked_of(talk, word, **details)


def asked_of(talk: Conversation, word: str, **details: object) -> str:
    """The same of an agent that is connected already."""
    talk.say(word, (), **details)
    return answered(talk, PATIENCE)


def answered(talk: Conversation, seconds: float) -> str:
    """The next thing that it says; MeshError when it refuses."""
    answer = talk.hear("answer", seconds)
    text = str(answer.get("text"))
    if not answer.get("good"):
        raise MeshError(text)
    return text


def connected(path: Path) -> Conversation:
    """A conversation with the agent; MeshError when there is none, or when it is not ours to ask."""
    try:
        found = agent_socket.connect(path)
    except ConfigError as error:
        raise MeshError(f"the agent's socket {path} is for root and group docker") from error
    if found is None:
        raise MeshError(
            f"no agent runs on this node ({path}): `systemctl start meshlb-agent`, or run meshlb-agent"
        )
    return Conversation(found)
