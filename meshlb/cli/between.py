"""What `doctor` finds out about the ways between nodes, for gossip and containers, and about their clocks."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from meshlb.cli.probe import REFUSED, SANDBOX, Finding, attempt, echoed
from meshlb.peers.echo import is_askable

MOST = 64  # nodes that are tried
SKEW = 5.0  # seconds; certificates and tokens of a swarm live in time
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
    """Nodes that managers miss, and those that they hold for up and gossip does not show here (pure)."""
    for node in nodes:
        status = node.get("Status") or {}
        if status.get("State") == "down":
            name = (node.get("Description") or {}).get("Hostname") or status.get("Addr")
            text = f"node {name} is down, as managers have it"
            yield Finding(
                False, text, f"start it and its Docker; if it is gone for good: docker node rm {name}"
            )
        if status.get("State") == "ready" and status.get("Addr") not in heard:
            text = f"gossip does not show {status.get('Addr')}: its tasks cannot be reached from here"
            yield Finding(False, text, "open 7946/tcp and 7946/udp between the nodes, both ways")


def containers(own: str, found: Mapping[str, str], port: int, ask: Ask | None = None) -> Iterator[Finding]:
    """Whether packets of containers get to the other nodes and back: an echo over the overlay itself."""
    others = {host: address for host, address in found.items() if host != own and is_askable(address)}
    others = dict(list(others.items())[:MOST])
    if not others:
        return
    answered = (ask or _over_ingress)(others.values())
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


def _over_ingress(addresses: Collection[str]) -> Collection[str] | None:
    return echoed(addresses, SANDBOX)


def ports(managers: Collection[str], nodes: Collection[str]) -> Iterator[Finding]:
    """The ports by which nodes reach each other: of managers, and of all nodes. All are tried at once."""
    asked = [(address, 2377, "managers") for address in sorted(managers)]
    others = sorted(nodes)[:MOST]
    asked += [(address, *port) for address in others for port in ((7946, "gossip"), (7947, "agents"))]
    if not asked:
        return
    with ThreadPoolExecutor(MOST) as pool:
        streams = pool.map(lambda one: stream(*one), asked)
        datagrams = pool.map(lambda address: datagram(address, 7946), others)
        yield from sorted([*streams, *datagrams], key=lambda finding: finding.text)


def stream(address: str, port: int, what: str) -> Finding:
    """Whether a port of TCP answers. That no agent is there is worth a word; the mesh works without."""
    tried = attempt(address, port, patience=2.0, stay=0.01)
    text = f"{address} {port}/tcp ({what}): "
    if not tried.error or tried.error.endswith("at once"):
        return Finding(True, f"{text}answers")
    running = "is Docker running there, or does a firewall refuse?"
    if port == 7947:
        running = "is an agent running there?"
    advice = running if tried.error == REFUSED else f"open {port}/tcp between the nodes"
    return Finding(None if port == 7947 else False, text + tried.error, advice)


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
