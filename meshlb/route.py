"""One port's part of what the workers are told: a policy in the numbers that they understand. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from meshlb.policy import ALL_OTHERS, BALANCERS, TRANSPARENT, Policy

EVERY = 0xFFFFFFFF  # retries: as many as there are backends
LONGEST_CHECK = 5.0  # seconds that a backend has to answer a check
Members = tuple[tuple[int, int], ...]  # (id of a backend, its weight)


class Route(NamedTuple):
    """A port with its backends and its policy. Times are milliseconds, and 0 switches a limit off."""

    port: int
    tiers: tuple[Members, Members]  # the second is for when nobody of the first is usable
    balance: int
    by_source: bool
    source_prefix: tuple[int, int]
    connect_timeout: int
    retries: int
    hold: int
    slow_start: int
    idle_timeout: int
    max_conn: int
    max_conn_backend: int
    queue: int
    queue_timeout: int
    rate_interval: int  # microseconds between two new connections of one source
    rate_burst: int
    allow: bytes  # 17 for each network: 16 of address (IPv4 as ::ffff:a.b.c.d), the length of the prefix
    deny: bytes
    proxy_protocol: int
    accept_proxy: bytes
    transparent: bool  # backends that are prepared see the client's own address
    unmasked: bool  # or there is no connection
    masked: bytes  # clients whose own address backends must not see
    flow_timeout: int
    flows_per_source: int
    check_interval: int
    check_timeout: int
    check_rise: int
    check_fall: int
    access_log: bool


def route(port: int, tiers: tuple[Members, Members], policy: Policy, masked: tuple[str, ...] = ()) -> Route:
    """The route of a port whose backends are known by their ids.

    Clients in the networks `masked` are never shown by their own address.
    """
    return Route(
        port=port,
        tiers=tiers,
        balance=BALANCERS.index(policy.balance),
        by_source=policy.balance == "source",
        source_prefix=policy.source_prefix,
        connect_timeout=_milliseconds(policy.connect_timeout),
        retries=EVERY if policy.retries == ALL_OTHERS else policy.retries,
        hold=_milliseconds(policy.hold),
        slow_start=_milliseconds(policy.slow_start),
        idle_timeout=_milliseconds(policy.idle_timeout),
        max_conn=policy.max_conn,
        max_conn_backend=policy.max_conn_backend,
        queue=policy.queue,
        queue_timeout=_milliseconds(policy.queue_timeout),
        rate_interval=round(1_000_000 / policy.rate) if policy.rate else 0,
        rate_burst=policy.rate_burst or max(1, round(policy.rate)),
        allow=packed(policy.allow),
        deny=packed(policy.deny),
        proxy_protocol=policy.proxy_protocol,
        accept_proxy=packed(policy.accept_proxy),
        transparent=policy.client_address == TRANSPARENT,
        unmasked=policy.fallback == "refuse",
        masked=packed(masked),
        flow_timeout=_milliseconds(policy.flow_timeout),
        flows_per_source=policy.flows_per_source,
        check_interval=_milliseconds(policy.check_interval) if policy.check == "tcp" else 0,
        check_timeout=_milliseconds(min(policy.check_interval, LONGEST_CHECK)),
        check_rise=policy.check_rise,
        check_fall=policy.check_fall,
        access_log=policy.access_log,
    )


def packed(networks: Iterable[str]) -> bytes:
    """Networks as the workers read them."""
    return b"".join(_packed(ipaddress.ip_network(text)) for text in networks)


def _packed(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bytes:
    address, length = network.network_address.packed, network.prefixlen
    if network.version == 4:
        address, length = bytes(10) + b"\xff\xff" + address, length + 96
    return address + bytes((length,))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
