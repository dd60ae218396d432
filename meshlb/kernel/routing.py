"""Routes, and what is checked of them, in the network namespace that the calling thread is in (rtnetlink(7)).

A route for a mark is a rule that leads to a table, and the table's only route. Both have the mark as their
number, so one can be made and removed without asking what is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from meshlb.kernel.neighbours import attribute, message, messages

_NEW_ROUTE, _DELETE_ROUTE, _NEW_RULE, _DELETE_RULE = 24, 25, 32, 33  # RTM_*
_SET_LINK = 19  # RTM_SETLINK
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_OF_FAMILY, _CONF = 26, 1  # IFLA_AF_SPEC, IFLA_INET_CONF
_PATH_FILTER, _LOOSE = 8, 2  # IPV4_DEVCONF_RP_FILTER
_ACK, _EXCLUSIVE, _REPLACE, _CREATE = 0x4, 0x200, 0x100, 0x400  # NLM_F_*
_ERROR = 2  # NLMSG_ERROR
_BODY = struct.Struct("=8BI")  # struct rtmsg, struct fib_rule_hdr
_OURS = 0x4D  # rtm_protocol: whoever lists the routes sees that they are nobody else's
_UNICAST, _LOCAL, _HOST = 1, 2, 254  # RTN_*, RT_SCOPE_HOST
_ONLINK = 4  # RTNH_F_ONLINK
_OUT, _GATEWAY, _TABLE = 4, 5, 15  # RTA_*
_PRIORITY, _MARK, _TO = 6, 10, 15  # FRA_*
_TO_TABLE = 1  # FR_ACT_TO_TBL
_BEFORE = 7000  # priority of the rules: after the local table, before the main one
_PATIENCE = 1.0  # seconds that the kernel may take to answer
_LONGEST = 1 << 16  # bytes of one answer


def to_here(mark: int) -> None:
    """Have what has this mark delivered here, whatever its address is."""
    body = _BODY.pack(socket.AF_INET, 0, 0, 0, 0, _OURS, _HOST, _LOCAL, 0)
    _make(mark, body + _number(_OUT, socket.if_nametoindex("lo")))


def to_host(mark: int, host: str, interface: str) -> None:
    """Have what has this mark sent to that host, a neighbour at the interface."""
    body = _BODY.pack(socket.AF_INET, 0, 0, 0, 0, _OURS, 0, _UNICAST, _ONLINK)
    way = attribute(_GATEWAY, socket.inet_aton(host)) + _number(_OUT, socket.if_nametoindex(interface))
    _make(mark, body + way)


def loosen(interface: str) -> None:
    """Have its reverse path filter be loose. As rp_filter is set in /proc/sys, which may be read-only."""
    conf = attribute(_CONF, _number(_PATH_FILTER, _LOOSE))
    link = _LINK.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(interface), 0, 0)
    _ask(_SET_LINK, 0, link + attribute(_OF_FAMILY, attribute(socket.AF_INET, conf)))


def remove(mark: int) -> None:
    """Have what has this mark go as it did before; nothing where that is so already."""
    for kind, body in ((_DELETE_RULE, _rule(mark)), (_DELETE_ROUTE, _any_route(mark))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            _ask(kind, 0, body)


def _make(mark: int, route: bytes) -> None:
    _ask(_NEW_ROUTE, _CREATE | _REPLACE, route + _number(_TABLE, mark))
    with contextlib.suppress(FileExistsError):
        _ask(_NEW_RULE, _CREATE | _EXCLUSIVE, _rule(mark))


def _rule(mark: int) -> bytes:
    body = _BODY.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)
    return body + _number(_PRIORITY, _BEFORE) + _number(_MARK, mark) + _number(_TO, mark)


def _any_route(mark: int) -> bytes:
    nowhere = 255  # RT_SCOPE_NOWHERE: of any scope
    return _BODY.pack(socket.AF_INET, 0, 0, 0, 0, _OURS, nowhere, 0, 0) + _number(_TABLE, mark)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _ask(kind: int, flags: int, body: bytes) -> None:
    """OSError when the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_PATIENCE)
        kernel.bind((0, 0))
        kernel.send(message(kind, flags | _ACK, body))
        for answer, content in messages(kernel.recv(_LONGEST)):
            if answer == _ERROR and (number := -struct.unpack_from("=i", content)[0]):
                raise OSError(number, os.strerror(number))
            if answer == _ERROR:
                return
    raise OSError(errno.EPROTO, "the kernel's answer is none")
