"""The syntax of names in a service's containers: DNS servers, hosts (pure)."""

from __future__ import annotations

import ipaddress

from meshlb.errors import ConfigError


def server(text: str) -> str:
    """A DNS server's address."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ConfigError(f'"{text}" is not an IP address, such as 1.1.1.1') from None


def host(text: str) -> str:
    """A line of hosts(5) from `db:10.0.0.5`; IPv6 addresses as they are, or in brackets."""
    name, colon, address = text.partition(":")
    plain = address[1:-1] if address[:1] == "[" and address[-1:] == "]" else address
    try:
        found = ipaddress.ip_address(plain)
    except ValueError:
        found = None
    if not name or not colon or found is None:
        raise ConfigError(f'"{text}" is not NAME:ADDRESS, such as db:10.0.0.5')
    return f"{found} {name}"
