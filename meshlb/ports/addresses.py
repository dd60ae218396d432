"""This node's own addresses, and those among them that a port is to be served on."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST = 64  # addresses of one port
ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  as in a listen of 0.0.0.0/0
LOOPBACK = frozenset({"127.0.0.1", "::1"})
# Nobody has it (RFC 7600): a port that is served on no address of this node is held there.
NOWHERE = "192.0.0.8"

_NEW, _DONE, _ASK, _DUMP = (
    20,
    3,
    22,
    0x301,
)  # RTM_NEWADDR, NLMSG_DONE, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP
_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_LINK = 253  # RT_SCOPE_LINK
_IPV6 = Path("/proc/net/if_inet6")


def chosen(networks: Iterable[str], own: Iterable[str], ipv6: bool = True) -> tuple[str, ...]:
    """The addresses to listen on. Single ones are as they are: they may come to this node at any time."""
    found: dict[str, None] = {}
    for network in map(ipaddress.ip_network, networks):
        if network.version == 6 and not ipv6:
            continue
        if network.prefixlen in (0, network.max_prefixlen):
            found[str(network.network_address)] = None
        else:
            found |= dict.fromkeys(one for one in own if ipaddress.ip_address(one) in network)
    # Anywhere is everywhere: no other address of its family can be bound beside it.
    wide = {ipaddress.ip_address(one).version for one in found if one in ANYWHERE}
    return tuple(
        sorted(one for one in found if one in ANYWHERE or ipaddress.ip_address(one).version not in wide)
    )


def has_ipv6() -> bool:
    """Whether the kernel speaks IPv6."""
    return _IPV6.exists()


def own_addresses() -> frozenset[str]:
    """The addresses of this thread's network namespace; those of one link alone are left out."""
    question = struct.pack("=IHHIIBxxxI", 24, _ASK, _DUMP, 1, 0, socket.AF_UNSPEC, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(1)
        kernel.send(question)
        return frozenset(_answers(kernel))


def _answers(kernel: socket.socket) -> Iterator[str]:
    while True:
        heard = kernel.recv(1 << 16)
        while len(heard) >= 16:
            size, kind = struct.unpack_from("=IH", heard)
            if kind != _NEW or size < 24:
                return  # the end, or an error
            yield from _address(heard[16:size])
            heard = heard[size + 3 & ~3 :]


def _address(message: bytes) -> Iterator[str]:
    """The address in one message, after its `struct ifaddrmsg`: the local end, where the kernel tells two."""
    family, _, _, scope = struct.unpack_from("=4B", message)
    attributes = dict(_attributes(message[8:]))
    found = attributes.get(_LOCAL) or attributes.get(_ADDRESS)
    if found and scope != _LINK and family in (socket.AF_INET, socket.AF_INET6):
        yield socket.inet_ntop(family, found)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            return
        yield kind, data[4:size]
        data = data[size + 3 & ~3 :]
