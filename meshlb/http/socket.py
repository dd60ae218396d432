"""Where the status page listens. The server itself comes after the ports: loading it takes longer."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from meshlb.config import split_address
from meshlb.errors import ConfigError

BACKLOG = 64

_BIND_ERRORS = {
    errno.EADDRINUSE: "another process (a second meshlb-agent?) listens there; stop it or choose another",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another",
    errno.EACCES: "ports below 1024 need the capability CAP_NET_BIND_SERVICE; choose a higher one",
}


async def listening(address: str, inherited: Iterable[socket.socket] = ()) -> list[socket.socket]:
    """Sockets that listen at `address`; where one is inherited it is that one, and the others are closed."""
    left = {each.getsockname()[:2]: each for each in inherited}
    found: list[socket.socket] = []
    host, port = split_address(address) if address else ("", 0)
    try:
        for family, place in await _places(host, port) if address else []:
            at = place[:2]
            found.append(left.pop(at) if at in left else _bound(family, place))
    except socket.gaierror as error:
        raise ConfigError(f'--http {address}: "{host}" is not an address of this machine') from error
    except OSError as error:
        for each in found:
            each.close()
        reason = _BIND_ERRORS.get(error.errno or 0, error.strerror or str(error))
        raise ConfigError(f"--http {address}: cannot listen: {reason}") from error

    finally:
        for each in left.values():
            each.close()
    return found


async def _places(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Families and socket addresses that a host's name stands for, each once."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list({place: (family, place) for family, _, _, _, place in found}.values())


def _bound(family: int, place: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def open_to_all(address: str, sockets: Iterable[socket.socket], tls: bool, password: bool) -> str:
    """What to tell whoever has the page listen beyond loopback; empty where there is nothing to tell."""
    if (tls and password) or all(ip_address(each.getsockname()[0]).is_loopback for each in sockets):
        return ""
    if password:
        return f"--http {address}: passwords cross the network unencrypted; add --http-certificate"
    add = "--http-users" if tls else "--http-certificate and --http-users"
    return (
        f"--http {address}: everybody who reaches it reads names of services, tasks and nodes; add {add}, "
        "or have a firewall let in only who may"
    )


def url_of(listener: socket.socket, secure: bool = False) -> str:
    """Where to look."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
