"""Who may read the page: no website that the operator's browser happens to show. Pure.

A browser names the page that asks (Origin, Sec-Fetch-Site). Against a name of the attacker's own that is
suddenly the address of this agent (DNS rebinding) only the Host header helps: addresses cannot be rebound, so
they are let in, and names only if they are this node's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

LOCAL = frozenset({"localhost", "ip6-localhost"})


def refusal(headers: Mapping[str, str], names: frozenset[str] | None) -> str:
    """Why this request is refused; empty when it is not.

    `names` are those of this node, in small letters; with None every Host will do.
    """
    host = headers.get("Host", "")
    if names is not None and host and not _is_ours(host, names):
        return "this agent answers by an address, or by the name of its node: no other Host\n"
    origin = headers.get("Origin", "")
    if origin and _origin_host(origin) != host.lower():
        return "no other website may read this\n"
    if headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"} or _is_link(headers):
        return ""
    return "no other website may read this\n"


def is_here(peer: str, own: str) -> bool:
    """Whether a connection from `peer` to `own` comes from this machine: others cannot have such a source."""
    return peer == own or (_is_address(peer) and ipaddress.ip_address(peer).is_loopback)


def _is_ours(host: str, names: frozenset[str]) -> bool:
    name = _name(host)
    return name in LOCAL or name in names or _is_address(name)


def _name(host: str) -> str:
    """The name or address of `name:port` or `[address]:port`, in small letters; empty for nonsense."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _origin_host(origin: str) -> str:
    """`host:port` of an origin; empty for `null` and for nonsense."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_link(headers: Mapping[str, str]) -> bool:
    """A link that was followed shows the page to the user, and nothing to the website with the link."""
    return headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
