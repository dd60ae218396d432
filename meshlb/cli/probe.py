"""Looking at this machine and at connections: what `why` and `doctor` find out, and how they say it."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from meshlb.kernel.visit import visit
from meshlb.peers.echo import Echo, is_askable

T = TypeVar("T")

SANDBOX = Path("/var/run/docker/netns/ingress_sbox")
MARKS = {True: ("ok", "green"), False: ("BAD", "red"), None: ("-", "yellow")}
REFUSED = "Connection refused"
_CLONE_NEWNET = 0x40000000
_TRIES, _PATIENCE = 3, 0.7  # echoes, and seconds for each


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


@dataclass(frozen=True, slots=True)
class Way:
    """How backends are reached: in a network namespace, or in our own where that is None."""

    namespace: Path | None = None

    def attempt(self, address: str, port: int) -> Attempt:
        """Connects to a backend."""
        namespace = self.namespace
        return (
            attempt(address, port) if namespace is None else inside(namespace, lambda: attempt(address, port))
        )

    def answers(self, address: str) -> bool | None:
        """Whether the backend's kernel answers an echo; None where that cannot be tried."""
        found = echoed([address], self.namespace) if is_askable(address) else None
        return None if found is None else address in found


def echoed(addresses: Collection[str], namespace: Path | None = None) -> Collection[str] | None:
    """Who of them answers an ICMP echo; None when we may not ask."""
    try:
        return _echoes(addresses) if namespace is None else inside(namespace, lambda: _echoes(addresses))
    except OSError:
        return None


def _echoes(addresses: Collection[str]) -> Collection[str] | None:
    echo, answered = Echo(), set[str]()
    try:
        for _ in range(_TRIES):
            echo.ask(set(addresses) - answered)
            if not echo.works:
                return None
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end and len(answered) < len(addresses):
                time.sleep(0.01)
                answered |= echo.answers()
        return answered
    finally:
        echo.close()


def is_local(address: str) -> bool:
    """Whether the address is one of this machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True
