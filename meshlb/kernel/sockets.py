"""The sockets in the network namespace that the calling thread is in, as /proc/net has them (proc_net(5))."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from pathlib import Path

_NET = Path("/proc/thread-self/net")
_OVER = (6, 7, 10)  # TCP_TIME_WAIT; TCP_CLOSE, which a socket of UDP without a peer is in, too; TCP_LISTEN


def face_outside(network: ipaddress.IPv4Network) -> bool:
    """Whether a connection into this network has an address outside of it on its own side."""
    return any(
        local not in network and remote in network for name in ("tcp", "udp") for local, remote in _ends(name)
    )


def _ends(name: str) -> Iterator[tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]]:
    """Both ends of every connection of IPv4 that has not ended."""
    with (_NET / name).open() as lines:
        next(lines)  # the names of the columns
        for line in lines:
            _, local, remote, state, *_ = line.split()
            if int(state, 16) not in _OVER:
                yield _address(local), _address(remote)


def _address(text: str) -> ipaddress.IPv4Address:
    """Of an address and port, as the number that the kernel has in its memory."""
    return ipaddress.IPv4Address(struct.pack("=I", int(text.partition(":")[0], 16)))
