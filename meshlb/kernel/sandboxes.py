"""The network namespaces that Docker keeps for this node's containers, found by an address inside."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Collection
from pathlib import Path

from meshlb.kernel.visit import Enter, visit

MOST = 10_000  # namespaces that are looked into
_OTHERS = ("ingress_sbox", "default")
_OTHERS_BEGIN = ("1-", "lb_")  # libnetwork's own, not containers'
_ADDRESS, _MASK, _HARDWARE = 0x8915, 0x891B, 0x8927  # SIOCGIFADDR, SIOCGIFNETMASK, SIOCGIFHWADDR
_REQUEST = struct.Struct("=16s4x4s16x")  # struct ifreq with an IPv4 address in it

Interfaces = dict[str, ipaddress.IPv4Interface]


def find(directory: Path, addresses: Collection[str], enter: Enter) -> dict[str, Path]:
    """The files of the namespaces in which these addresses are, by address; those that are not there lack."""
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir())[:MOST]:
        if len(found) == len(addresses):
            break
        if path.name in _OTHERS or path.name.startswith(_OTHERS_BEGIN):
            continue
        with contextlib.suppress(OSError):  # it goes while we look, or is none yet
            for interface in interfaces(path, enter).values():
                if str(interface.ip) in addresses:
                    found[str(interface.ip)] = path
    return found


def interfaces(path: Path, enter: Enter) -> Interfaces:
    """The first IPv4 address of each interface in a namespace, with its network."""
    return visit(path, enter, _interfaces)


def hardware(path: Path, interface: str, enter: Enter) -> str:
    """An interface's hardware address."""

    def ask() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _HARDWARE, _REQUEST.pack(interface.encode(), bytes(4)))
        return answer[18:24].hex(":")

    return visit(path, enter, ask)


def _interfaces() -> Interfaces:
    found: Interfaces = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                address, mask = (_asked(any_socket, kind, name) for kind in (_ADDRESS, _MASK))
                found[name] = ipaddress.IPv4Interface(f"{address}/{mask}")
    return found


def _asked(any_socket: socket.socket, kind: int, interface: str) -> str:
    answer = fcntl.ioctl(any_socket, kind, _REQUEST.pack(interface.encode(), bytes(4)))
    return socket.inet_ntoa(_REQUEST.unpack(answer)[1])
