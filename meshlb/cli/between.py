"""What `doctor` finds out about the ways between nodes, for gossip and containers, and about their clocks."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from meshlb.cli.probe import SANDBOX, Finding, inside
from meshlb.peers.echo import Echo, is_askable

MOST = 64  # nodes that are tried
SKEW = 5.0  # seconds; certificates and tokens of a swarm live in time
_TRIES, _PATIENCE = 3, 0.7  # echoes, and seconds for each
_NTP = "run an NTP client on both"

Ask = Callable[[Collection[str]], Collection[str] | None]


def endpoints(network: Mapping[str, Any]) -> dict[str, str]:
    """Each node's own address in the ingress network, by the node's address, as gossip shows it (pure)."""
    services = (network.get("Services") or {}).values()
    tasks = [task for service in services for task in service.get("Tasks") or ()]
    return {
        str((task.get("Info") or {}).get("Host IP")): str(task.get("EndpointIP"))
        for task in tasks
        if str(task.get("Name")).endswith("-endpoint") and (task.get("Info") or {}).get("Host IP")
    }


def gossip(nodes: Iterable[Mapping[str, Any]], heard: Collection[str]) -> Iterator[Finding]:
    """Nodes that managers hold for up and that gossip does not show here (pure)."""
    for node in nodes:
        status = node.get("Status") or {}
        if status.get("State") == "ready" and status.get("Addr") not in heard:
            text = f"gossip does not show {status.get('Addr')}: its tasks cannot be reached from here"
            yield Finding(False, text, "open 7946/tcp and 7946/udp between the nodes, both ways")


def containers(own: str, found: Mapping[str, str], port: int, ask: Ask | None = None) -> Iterator[Finding]:
    """Whether packets of containers get to the other nodes and back: an echo over the overlay itself."""
    others = {host: address for host, address in found.items() if host != own and is_askable(address)}
    others = dict(list(others.items())[:MOST])
    if not others:
        return
    answered = (ask or _asked)(others.values())
    if answered is None:
        yield Finding(
            None, f"{port}/udp between the nodes is not tried: that takes root", "sudo meshlb doctor"
        )
        return
    for host, address in others.items():
        good = address in answered
        text = f"{host} {port}/udp (containers' traffic): an echo over the ingress network "
        advice = "" if good else f"open {port}/udp between the nodes, both ways; is Docker running there?"
        yield Finding(good, text + ("answers" if good else "gets no answer"), advice)


def _asked(addresses: Collection[str]) -> Collection[str] | None:
    """Who answers an echo in the ingress network; None when we may not ask."""
    try:
        return inside(SANDBOX, lambda: _echoes(addresses))
    except OSError:
        return None


def _echoes(addresses: Collection[str]) -> Collection[str] | None:
    echo, answered = Echo(), set[str]()
    try:
        for _ in range(_TRIES):
            echo.ask(set(addresses) - answered)
            if not echo.works:
                return None
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end and len(answered) < len(addresses):
                time.sleep(0.01)
                answered |= echo.answers()
        return answered
    finally:
        echo.close()


def datagram(address: str, port: int, patience: float = 0.5) -> Finding:
    """Whether a port of UDP is refused. Silence says nothing: who gets an empty datagram does not answer."""
    what = f"{address} {port}/udp (gossip)"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, port))
            sock.send(b"")
            select.select([sock], [], [], patience)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as trouble:
            error = trouble.errno or errno.EIO
    if not error:
        return Finding(True, f"{what}: nobody refuses it (a firewall that says nothing is not seen)")
    refused = error == errno.ECONNREFUSED
    advice = "is Docker running there?" if refused else f"open {port}/udp between the nodes"
    return Finding(False, f"{what}: {'Connection refused' if refused else 'rejected on the way'}", advice)


def clocks(ahead: Mapping[str, float]) -> Iterator[Finding]:
    """The clocks of nodes whose agents are heard; `ahead` are seconds by the nodes' addresses (pure)."""
    wrong = {address: by for address, by in ahead.items() if abs(by) >= SKEW}
    for address, by in wrong.items():
        way = "ahead of" if by > 0 else "behind"
        yield Finding(False, f"the clock of {address} is {abs(by):.0f} s {way} ours", _NTP)
    if ahead and not wrong:
        yield Finding(
            True,
            f"clocks of other nodes that are as ours, to within {SKEW:.0f} s: {len(ahead)} of {len(ahead)}",
        )
