"""The kernel's tables of neighbours in a network namespace: whose hardware address is which, and behind what.

Two tables, one message format (rtnetlink(7), linux/neighbour.h): the resolution of IPv4 addresses to hardware
addresses, and a VXLAN device's forwarding of hardware addresses to other hosts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meshlb.kernel.visit import Enter, visit

PERMANENT, NOARP, REACHABLE = 0x80, 0x40, 0x02  # NUD_*: states of an entry
CONNECTED = PERMANENT | NOARP | REACHABLE
_SELF = 0x02  # NTF_SELF: the device's own forwarding, not that of the bridge that it is a port of
_BRIDGE = 7  # AF_BRIDGE
_NEW, _DELETE, _GET = 28, 29, 30  # RTM_*NEIGH
_REQUEST, _ACK, _REPLACE, _DUMP, _CREATE = 0x1, 0x4, 0x100, 0x300, 0x400  # NLM_F_*
_ERROR, _DONE = 2, 3  # NLMSG_*
_GROUP = 1 << 2  # RTMGRP_NEIGH
_ADDRESS, _HARDWARE = 1, 2  # NDA_DST, NDA_LLADDR
_HEAD, _BODY, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxxxiHBB"), struct.Struct("=HH")
_LONGEST = 1 << 16  # bytes of one reading
_ROOM = 1 << 20  # bytes of news that may wait
_PATIENCE = 1.0  # seconds that the kernel may take to answer

Key = tuple[bool, int, object]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One entry. `address` is the neighbour's own, or, of a `forwarding`, that of the host it is behind."""

    forwarding: bool
    interface: int
    hardware: bytes
    address: str
    state: int = PERMANENT

    @property
    def key(self) -> Key:
        """What the kernel knows it by."""
        return self.forwarding, self.interface, self.hardware if self.forwarding else self.address


class Neighbours:
    """The tables of the namespace whose file is at `path`. OSError when it cannot be entered or asked."""

    def __init__(self, path: Path, enter: Enter) -> None:
        self._news, self._asking = visit(path, enter, _sockets)
        self._news.setblocking(False)
        self._asking.settimeout(_PATIENCE)

    def fileno(self) -> int:
        """Readable when there are changes."""
        return self._news.fileno()

    def close(self) -> None:
        """Ask no more."""
        self._news.close()
        self._asking.close()

    def all(self) -> list[Neighbour]:
        """Every entry."""
        found = []
        for family in (socket.AF_INET, _BRIDGE):
            self._asking.send(message(_GET, _DUMP, _BODY.pack(family, 0, 0, 0, 0)))
            found += [entry for kind, entry in self._answers() if kind == _NEW]
        return found

    def changes(self) -> list[tuple[bool, Neighbour]]:
        """What was put (true) and removed (false) since the last look. OSError when some was missed."""
        found: list[tuple[bool, Neighbour]] = []
        while True:
            try:
                data = self._news.recv(_LONGEST)
            except BlockingIOError:
                return found
            found += [(kind == _NEW, entry) for kind, entry in _entries(data)]

    def put(self, entry: Neighbour) -> None:
        """Make or replace an entry."""
        self._change(_NEW, _CREATE | _REPLACE, entry)

    def remove(self, entry: Neighbour) -> None:
        """Remove an entry; FileNotFoundError when it is not there."""
        self._change(_DELETE, 0, entry)

    def _change(self, kind: int, flags: int, entry: Neighbour) -> None:
        family, own = (_BRIDGE, _SELF) if entry.forwarding else (socket.AF_INET, 0)
        body = _BODY.pack(family, entry.interface, entry.state, own, 0)
        body += attribute(_ADDRESS, socket.inet_aton(entry.address))
        body += attribute(_HARDWARE, entry.hardware)
        self._asking.send(message(kind, flags | _ACK, body))
        for _ in self._answers():
            pass

    def _answers(self) -> Iterator[tuple[int, Neighbour]]:
        """The entries of one answer, up to its end. OSError when it is a refusal."""
        while True:
            data = self._asking.recv(_LONGEST)
            yield from _entries(data)
            for kind, body in messages(data):
                if kind == _ERROR and (number := -int.from_bytes(body[:4], "little", signed=True)):
                    raise OSError(number, os.strerror(number))
                if kind in (_ERROR, _DONE):
                    return


def _sockets() -> tuple[socket.socket, socket.socket]:
    """One that hears of changes, with room for many, and one that asks."""
    with contextlib.ExitStack() as stack:
        news, asking = (
            stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
            for _ in range(2)
        )
        news.bind((0, _GROUP))
        asking.bind((0, 0))
        news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        stack.pop_all()
    return news, asking


def message(kind: int, flags: int, body: bytes) -> bytes:
    """A request of netlink."""
    return _HEAD.pack(_HEAD.size + len(body), kind, flags | _REQUEST, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """One of its attributes."""
    head = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind)
    return head + value.ljust(_aligned(len(value)), b"\0")


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kinds and bodies in what was read."""
    while len(data) >= _HEAD.size:
        length, kind, *_ = _HEAD.unpack_from(data)
        if length < _HEAD.size:
            return
        yield kind, data[_HEAD.size : length]
        data = data[_aligned(length) :]


def _entries(data: bytes) -> Iterator[tuple[int, Neighbour]]:
    for kind, body in messages(data):
        if kind in (_NEW, _DELETE) and (entry := _entry(body)):
            yield kind, entry


def _entry(body: bytes) -> Neighbour | None:
    """None of what is no entry of the two tables, or says nothing."""
    family, interface, state, flags, _ = _BODY.unpack_from(body)
    fields = dict(attributes(body[_BODY.size :]))
    forwarding, address = family == _BRIDGE, fields.get(_ADDRESS, b"")
    if family not in (socket.AF_INET, _BRIDGE) or (forwarding and not flags & _SELF) or len(address) != 4:
        return None
    return Neighbour(forwarding, interface, fields.get(_HARDWARE, b""), socket.inet_ntoa(address), state)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kinds and values of the attributes in a body."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
