"""Looking at this machine and at connections: what `why` and `doctor` find out, and how they say it."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from meshlb.kernel.visit import visit

T = TypeVar("T")

SANDBOX = Path("/var/run/docker/netns/ingress_sbox")
MARKS = {True: ("ok", "green"), False: ("BAD", "red"), None: ("-", "yellow")}
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: good, bad, or neither; what to do when it is not good."""

    good: bool | None
    text: str
    advice: str = ""


def lines(findings: Iterable[Finding]) -> list[str]:
    """A line for each, and one for what to do."""
    made = []
    for finding in findings:
        word, colour = MARKS[finding.good]
        mark = click.style(f"{word:<4}", fg=colour) if coloured() else f"{word:<4}"
        made.append(f"{mark}{finding.text}")
        if finding.advice:
            made.append(f"      → {finding.advice}")
    return made


def coloured() -> bool:
    """Whether colours are wanted: https://no-color.org."""
    return not os.environ.get("NO_COLOR")


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one connection went. `error` is empty when it was established and stayed."""

    seconds: float
    error: str = ""


def attempt(address: str, port: int, patience: float = 3.0, stay: float = 0.3) -> Attempt:
    """Connects, and looks for a moment whether the other side resets it."""
    begun = time.monotonic()
    try:
        with socket.create_connection((address, port), patience) as connection:
            seconds = time.monotonic() - begun
            connection.settimeout(stay)
            return Attempt(seconds, _first_word(connection))
    except TimeoutError:
        return Attempt(time.monotonic() - begun, f"no answer in {patience:g} s")
    except OSError as error:
        return Attempt(time.monotonic() - begun, error.strerror or str(error))


def _first_word(connection: socket.socket) -> str:
    try:
        return "" if connection.recv(1) else "closed at once"
    except TimeoutError:
        return ""
    except OSError:
        return "reset at once"


def inside(namespace: Path, work: Callable[[], T]) -> T:
    """What `work` gives in a network namespace.

    PermissionError for who is not root, OSError when the namespace is not there.
    """
    return visit(namespace, _enter, work)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise PermissionError(ctypes.get_errno(), "setns")


def is_local(address: str) -> bool:
    """Whether the address is one of this machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True
