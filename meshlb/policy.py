"""How a published port balances and behaves: every key, its meaning, its default and its parser.

A key has one name everywhere: the label `meshlb.<key>` (or `meshlb.port.<published>.<key>` for one port
of the service), the flag `--<key>`, the key in a static file. `docs/policy.md` explains them to users.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from meshlb.text import shown

LABEL_PREFIX = "meshlb."
BALANCERS = ("roundrobin", "leastconn", "p2c", "random", "source")  # the plane knows them by their index
CHECKS = ("none", "tcp")
CLIENT_ADDRESS, TRANSPARENT = "client-address", "transparent"
CLIENT_ADDRESSES = ("mesh", TRANSPARENT)
FALLBACKS = ("mesh", "refuse")
LOCALITIES = ("none", "prefer", "strict")
PROXY_PROTOCOLS = {"off": 0, "v1": 1, "v2": 2}
ALL_OTHERS = 255  # retries: every other backend once
LONGEST_LIST = 256  # networks of one key

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)", re.ASCII)
_RATE = re.compile(r"(\d{1,7})/(s|m|h)", re.ASCII)
_NUMBER = re.compile(r"\d{1,7}", re.ASCII)
_OFF = ("none", "off", "0")
_SWITCH = {"on": True, "true": True, "off": False, "false": False}


@dataclass(frozen=True, slots=True)
class Policy:
    """The behaviour of one published port. Durations are seconds; 0 switches a limit off."""

    balance: str = "roundrobin"
    source_prefix: tuple[int, int] = (32, 128)  # bits of an IPv4 and of an IPv6 client's address
    locality: str = "none"
    connect_timeout: float = 0.3  # one attempt, while another backend is left to try
    retries: int = ALL_OTHERS
    hold: float = 0  # how long a new connection waits when no backend answers
    slow_start: float = 0
    drain: float = 0  # how long connections to a draining backend may live
    idle_timeout: float = 0
    max_conn: int = 0
    max_conn_backend: int = 0
    queue: int = 128  # connections that may wait for a place
    queue_timeout: float = 10
    rate: float = 0  # new connections per second of one source
    rate_burst: int = 0  # of them at once; 0 is one second's worth
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    proxy_protocol: int = 0
    client_address: str = "mesh"
    fallback: str = "mesh"  # where the client's own address cannot be shown
    accept_proxy: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    flow_timeout: float = 120  # UDP: silence that ends a conversation; one question and its answer go sooner
    check: str = "none"
    check_interval: float = 2
    check_rise: int = 2  # successes in a row that bring a failing backend back
    check_fall: int = 3
    flows_per_source: int = 0  # UDP: of one client address at once
    access_log: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """One policy key: how its text becomes a value, and what is allowed, in words."""

    field: str
    parse: Callable[[str], Any]
    allowed: str
    meaning: str
    kind: str = "duration"  # of value, as a help text names it
    many: bool = False  # a list; in a static file it may be written as one


def parse_duration(text: str, lowest: float, highest: float) -> float:
    """Seconds from `300ms`, `1.5s`, `2m` or `1h`; ValueError outside of [lowest, highest]."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(text)
    seconds = float(match[1]) * _UNITS[match[2]]
    if not lowest <= seconds <= highest:
        raise ValueError(text)
    return seconds


def parse_network(text: str) -> str:
    """A CIDR or a single address in its usual form; ValueError for others, host bits included."""
    if "%" in text:
        raise ValueError(text)
    return str(ipaddress.ip_network(text))


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    return parse


def _duration(lowest: float, highest: float) -> Callable[[str], float]:
    return lambda text: parse_duration(text, lowest, highest)


def _duration_or_none(lowest: float, highest: float) -> Callable[[str], float]:
    return lambda text: 0.0 if text in _OFF else parse_duration(text, lowest, highest)


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not lowest <= int(text) <= highest:
            raise ValueError(text)
        return int(text)

    return parse


def _limit(highest: int) -> Callable[[str], int]:
    return lambda text: 0 if text in _OFF else _number(1, highest)(text)


def _rate(text: str) -> float:
    if text in _OFF:
        return 0.0
    match = _RATE.fullmatch(text)
    if not match or not 0 < int(match[1]) <= 50_000 * _UNITS[match[2]]:
        raise ValueError(text)
    return int(match[1]) / _UNITS[match[2]]


def _switch(text: str) -> bool:
    if text not in _SWITCH:
        raise ValueError(text)
    return _SWITCH[text]


def _networks(text: str) -> tuple[str, ...]:
    if not text.strip() or text in _OFF:
        return ()
    networks = tuple(dict.fromkeys(parse_network(part.strip()) for part in text.split(",", LONGEST_LIST + 1)))
    if len(networks) > LONGEST_LIST:
        raise ValueError(text)
    return networks


def _prefixes(text: str) -> tuple[int, int]:
    parts = [part.strip().removeprefix("/") for part in text.split(",", 2)]
    if len(parts) > 2:
        raise ValueError(text)
    return _number(1, 32)(parts[0]), _number(1, 128)(parts[1]) if len(parts) > 1 else 128


_DAY = 86400
_CIDRS = f"up to {LONGEST_LIST} CIDRs with commas between them, such as 10.0.0.0/8,2001:db8::/32"
KEYS: dict[str, Key] = {
    "balance": Key(
        "balance",
        _one_of(*BALANCERS),
        f"one of {', '.join(BALANCERS)}",
        "how a backend is chosen",
        kind="balancer",
    ),
    "source-prefix": Key(
        "source_prefix",
        _prefixes,
        "a length of prefix for IPv4, and one for IPv6 after a comma, such as 24,64",
        "for balance=source: bits of the client's address that count",
        kind="bits",
    ),
    "locality": Key(
        "locality",
        _one_of(*LOCALITIES),
        f"one of {', '.join(LOCALITIES)}",
        "whether tasks on the node that was asked come first, or alone",
        kind="locality",
    ),
    "connect-timeout": Key(
        "connect_timeout",
        _duration(0.01, 60),
        "a duration from 10ms to 60s",
        "for one attempt, while another backend is left to try",
    ),
    "retries": Key(
        "retries",
        lambda text: ALL_OTHERS if text == "all" else _number(0, 254)(text),
        "a number from 0 to 254, or all",
        "further backends to try when one does not answer",
        kind="number",
    ),
    "hold": Key(
        "hold",
        _duration_or_none(0.01, 3600),
        "a duration from 10ms to 1h, or none",
        "how long a new connection waits while no backend answers",
    ),
    "slow-start": Key(
        "slow_start",
        _duration_or_none(0.1, 3600),
        "a duration from 100ms to 1h, or none",
        "how long a new backend takes to get its full share",
    ),
    "drain": Key(
        "drain",
        _duration_or_none(0.1, _DAY),
        "a duration from 100ms to 24h, or none",
        "how long connections to a draining backend may live",
    ),
    "idle-timeout": Key(
        "idle_timeout",
        _duration_or_none(1, _DAY),
        "a duration from 1s to 24h, or none",
        "ends connections that have been silent for so long",
    ),
    "max-conn": Key(
        "max_conn",
        _limit(1_000_000),
        "a number from 1 to 1000000, or none",
        "connections of the port at once, on each node",
        kind="number",
    ),
    "max-conn-backend": Key(
        "max_conn_backend",
        _limit(1_000_000),
        "a number from 1 to 1000000, or none",
        "connections of one backend at once, from each node",
        kind="number",
    ),
    "queue": Key(
        "queue",
        _number(0, 65535),
        "a number from 0 to 65535",
        "connections that may wait for a place",
        kind="number",
    ),
    "queue-timeout": Key(
        "queue_timeout",
        _duration(0.01, 3600),
        "a duration from 10ms to 1h",
        "how long they may wait",
    ),
    "rate": Key(
        "rate",
        _rate,
        "connections per second, minute or hour, such as 100/s or 600/m, at most 50000/s, or none",
        "new connections of one client address (IPv6: /64)",
        kind="rate",
    ),
    "rate-burst": Key(
        "rate_burst",
        _number(0, 65535),
        "a number from 0 (one second's worth) to 65535",
        "how many of them at once",
        kind="number",
    ),
    "allow": Key(
        "allow",
        _networks,
        _CIDRS,
        "clients that may connect; all when it is empty",
        kind="networks",
        many=True,
    ),
    "deny": Key("deny", _networks, _CIDRS, "clients that may not", kind="networks", many=True),
    "listen": Key(
        "listen",
        _networks,
        _CIDRS,
        "addresses of the node that the port is served on; all when it is empty",
        kind="networks",
        many=True,
    ),
    "proxy-protocol": Key(
        "proxy_protocol",
        lambda text: PROXY_PROTOCOLS[_one_of(*PROXY_PROTOCOLS)(text)],
        f"one of {', '.join(PROXY_PROTOCOLS)}",
        "tells backends the client's address in a PROXY header",
        kind="version",
    ),
    CLIENT_ADDRESS: Key(
        "client_address",
        _one_of(*CLIENT_ADDRESSES),
        f"one of {', '.join(CLIENT_ADDRESSES)}",
        "whose address tasks see: the node's, or the client's own",
        kind="whose",
    ),
    "fallback": Key(
        "fallback",
        _one_of(*FALLBACKS),
        f"one of {', '.join(FALLBACKS)}",
        "where a client's own address cannot be shown: the node's, or no connection",
        kind="what",
    ),
    "accept-proxy": Key(
        "accept_proxy",
        _networks,
        _CIDRS,
        "who must send a PROXY header; from others one is refused",
        many=True,
        kind="networks",
    ),
    "check": Key(
        "check",
        _one_of(*CHECKS),
        f"one of {', '.join(CHECKS)}",
        "whether every node looks if backends accept connections",
        kind="check",
    ),
    "check-interval": Key(
        "check_interval", _duration(0.1, 3600), "a duration from 100ms to 1h", "from one look to the next"
    ),
    "check-rise": Key(
        "check_rise",
        _number(1, 100),
        "a number from 1 to 100",
        "good looks in a row that bring a backend back",
        kind="number",
    ),
    "check-fall": Key(
        "check_fall",
        _number(1, 100),
        "a number from 1 to 100",
        "bad looks in a row after which a backend gets no new connections",
        kind="number",
    ),
    "flow-timeout": Key(
        "flow_timeout",
        _duration(1, _DAY),
        "a duration from 1s to 24h",
        "of UDP: the silence that ends a client's conversation (30s before it goes on after an answer)",
    ),
    "flows-per-source": Key(
        "flows_per_source",
        _limit(1_000_000),
        "a number from 1 to 1000000, or none",
        "of UDP: conversations of one client address at once (IPv6: /64)",
        kind="number",
    ),
    "access-log": Key(
        "access_log",
        _switch,
        "on or off",
        "writes a line into the agent's log for each connection that has ended",
        kind="switch",
    ),
}


def from_settings(
    settings: Iterable[tuple[str, str]], where: str, base: Policy | None = None
) -> tuple[Policy, tuple[str, ...]]:
    """The policy that `key, text` pairs describe, and a sentence for every pair that cannot be used.

    `where` names the place for the reader, for example `service web: label meshlb.`; the key follows it
    directly. A bad pair leaves its key at the value in `base`.
    """
    values: dict[str, Any] = {}
    problems = []
    for name, text in settings:
        key = KEYS.get(name)
        if key is None:
            problems.append(f"{where}{shown(name)}: unknown key; known are {', '.join(KEYS)}")
            continue
        try:
            values[key.field] = key.parse(text)
        except ValueError as error:
            problems.append(f'{where}{name}: "{shown(text)}" is not {key.allowed}{_hint(error)}')
    policy = base or Policy()
    return replace(policy, **values) if values else policy, tuple(problems)


def _hint(error: ValueError) -> str:
    """What ipaddress says about bits beyond the prefix is worth telling."""
    text = str(error)
    return f" ({shown(text)})" if text.endswith("has host bits set") else ""
