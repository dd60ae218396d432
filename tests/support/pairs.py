"""Pairs of connections from one client address and port, to two nodes at once: each has its own answers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

FIRST_PORT = 20_000  # below those that the kernel chooses for others


def mixed_up(nodes: Sequence[str], target: int, pairs: int, at_once: int = 100) -> list[str]:
    """What went wrong with so many connections to each node's echo server at `target`; best is nothing."""
    wrong: list[str] = []
    for first in range(0, pairs, at_once):
        ports = range(FIRST_PORT + first, FIRST_PORT + min(first + at_once, pairs))
        wrong += _together(nodes, target, ports)
    return wrong


def echoes(node: str, target: int) -> bool:
    """Whether an echo server is reached there."""
    try:
        with socket.create_connection((node, target), 5) as client:
            client.sendall(b"?")
            return client.recv(1) == b"?"
    except OSError:
        return False


def _together(nodes: Sequence[str], target: int, ports: range) -> list[str]:
    with contextlib.ExitStack() as stack:
        ends = [
            (f"{port} at {node}", stack.enter_context(_opened(node, target, port)))
            for port in ports
            for node in nodes
        ]
        for name, end in ends:
            end.sendall(f"{name}\n".encode())
        return [said for name, end in ends if (said := _heard(name, end))]


def _opened(node: str, target: int, port: int) -> socket.socket:
    """A connection from a port that another one to another node may have, too."""
    with contextlib.ExitStack() as stack:
        end = stack.enter_context(socket.socket())
        end.settimeout(10)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end.bind(("", port))
        end.connect((node, target))
        stack.pop_all()
    return end


def _heard(name: str, end: socket.socket) -> str:
    try:
        said = end.recv(100).decode()
    except OSError as error:
        return f"{name}: {error}"
    return "" if said == f"{name}\n" else f"{name}: heard {said!r}"
