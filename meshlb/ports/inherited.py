"""Listening sockets that come from the agent before this one, until somebody takes them.

They come from an agent that hands over, or from a service manager that has kept them while none ran. What
waits in them for `accept` or `recv` is not lost. A socket tells its address and number itself; its
name says which published port it is for: the number may be one of our own that traffic is redirected to.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from typing import Protocol as Interface

from meshlb.model import Port, Protocol

HTTP = "http"  # the name of the status page's
Named = tuple[str, tuple[socket.socket, ...]]
ByAddress = dict[str, list[socket.socket]]


def name_of(port: Port) -> str:
    """The name of a port's sockets: `tcp.80`."""
    return f"{port.protocol}.{port.published}"


class Store(Interface):
    """Keeps listening sockets beside us, so that they outlive a crash."""

    def keep(self, name: str, sockets: Iterable[socket.socket]) -> None:
        """Keep these, too."""

    def drop(self, names: Iterable[str]) -> None:
        """Keep those of these names no longer; returns when they are let go of."""

    def drop_all(self) -> None:
        """Keep none any longer."""


class NoStore:
    """Where nobody keeps sockets for us."""

    def keep(self, name: str, sockets: Iterable[socket.socket]) -> None:
        """Does nothing."""

    def drop(self, names: Iterable[str]) -> None:
        """Does nothing."""

    def drop_all(self) -> None:
        """Does nothing."""


class Inherited:
    """Sockets by name. Who takes them owns them."""

    def __init__(self) -> None:
        self._sockets: dict[str, list[socket.socket]] = {}

    def add(self, named: Iterable[Named]) -> None:
        """More of them."""
        for name, sockets in named:
            for each in sockets:
                # Python believes that a descriptor from elsewhere blocks, and dup() would make it do so.
                each.setblocking(False)
            self._sockets.setdefault(name, []).extend(sockets)

    def take(self, name: str) -> list[socket.socket]:
        """All of one name; none where there are none."""
        return self._sockets.pop(name, [])

    def clear(self) -> list[str]:
        """Close what nobody has taken; its names."""
        names = list(self._sockets)
        for name in names:
            for each in self._sockets.pop(name):
                each.close()
        return names


def place(sock: socket.socket) -> tuple[Protocol, str, int]:
    """Protocol, address and number of a listening socket; the address is empty where it is every one.

    OSError for what is no such socket.
    """
    kind = Protocol.TCP if sock.type == socket.SOCK_STREAM else Protocol.UDP
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise OSError("not a socket of the network")
    address, number = sock.getsockname()[:2]
    if kind is Protocol.TCP and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError("not listening")
    both = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return kind, "" if both and address == "::" else address, number


def by_address(sockets: Iterable[socket.socket], protocol: Protocol) -> tuple[int, ByAddress]:
    """The number that sockets of one port share, and the sockets by address; what does not fit is closed."""
    number = 0
    found: ByAddress = {}
    for each in sockets:
        with contextlib.suppress(OSError):
            kind, address, own = place(each)
            if kind is protocol and own == (number or own):
                number = own
                found.setdefault(address, []).append(each)
                continue
        each.close()
    return number, found
