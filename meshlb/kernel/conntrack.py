"""The connections that the kernel tracks in the network namespace of the calling thread (ctnetlink)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from meshlb.kernel.neighbours import attribute, attributes, message, messages

_NETFILTER = 12  # NETLINK_NETFILTER
_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET; the answers are IPCTNL_MSG_CT_NEW
_ENTRY = 1 << 8
_DUMP = 0x300  # NLM_F_DUMP
_ERROR, _DONE = 2, 3  # NLMSG_*
_BODY = struct.pack("=BBH", socket.AF_INET, 0, 0)  # struct nfgenmsg
_PROTOCOL, _MARK, _MASK = 4, 8, 21  # CTA_PROTOINFO, CTA_MARK, CTA_MARK_MASK
_TCP, _STATE = 1, 1  # CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE
_KIND = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_OVER = (7, 8)  # TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE
_PATIENCE = 5.0  # seconds that the kernel may take for one part of its answer
_LONGEST = 1 << 16  # bytes of one part


def carries(mark: int, mask: int) -> bool:
    """Whether a connection of IPv4 that has not ended yet has this mark, as far as `mask` goes.

    OSError where the kernel does not tell. It looks at every connection of the namespace.
    """
    wanted = attribute(_MARK, struct.pack("!I", mark)) + attribute(_MASK, struct.pack("!I", mask))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as kernel:
        kernel.settimeout(_PATIENCE)
        kernel.bind((0, 0))
        kernel.send(message(_GET, _DUMP, _BODY + wanted))
        return any(_goes_on(entry) for entry in _entries(kernel))


def _entries(kernel: socket.socket) -> Iterator[dict[int, bytes]]:
    while True:
        for kind, body in messages(kernel.recv(_LONGEST)):
            if kind == _DONE:
                return
            if kind == _ERROR and (number := -struct.unpack_from("=i", body)[0]):
                raise OSError(number, os.strerror(number))
            if kind == _ENTRY:
                yield _fields(body[len(_BODY) :])


def _goes_on(entry: dict[int, bytes]) -> bool:
    """Only TCP has an end that the kernel sees."""
    tcp = _fields(_fields(entry.get(_PROTOCOL, b"")).get(_TCP, b""))
    return tcp.get(_STATE, b"\0")[0] not in _OVER


def _fields(data: bytes) -> dict[int, bytes]:
    return {kind & _KIND: value for kind, value in attributes(data)}
