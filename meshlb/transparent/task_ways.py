"""The ways of a task's answers to clients' own addresses: back to the node that each connection came through.

In the task's network namespace, which is Docker's, a table of nftables and a route for each ingress host:

    in    from an ingress host's hardware address, and from outside of the overlay: the packet and its
          connection get that host's mark, and a conntrack zone of its own, so that a client's address and
          port that come through two nodes at once stay two connections: the kernel then gives one another
          port
    out   a packet of a connection that has a mark gets it, and is sent to the host whose mark it is

A server of datagrams that listens at all addresses answers from the one that its way out has, which is not
the one that was asked: so what is for it is led there, and its answers come from the right one again.

All else goes as it went before. The mark's lower half is that of the host's address. The table has no owner:
connections go on while an agent is replaced.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from meshlb.kernel import conntrack, routing
from meshlb.kernel.nft import NftError
from meshlb.kernel.visit import Enter, visit
from meshlb.transparent.answers import MARK

TABLE = "ip meshlb_client_address"
MOST_HOSTS = 256
LONGEST_PREFIX = 16  # of the overlay: a larger one has hosts whose addresses' lower halves are the same
PATIENCE = 5.0  # seconds that nft may take
_UPPER = 0xFFFF0000  # the half of a mark that says whose it is
_NONE = f"add table {TABLE}\ndelete table {TABLE}\n"
_ANYWHERE = ("192.0.2.1", 9)  # an address that no task's networks have
_IPV4 = Path("/proc/sys/net/ipv4")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task's network ends: the file of its namespace, and its interface at the ingress overlay."""

    path: Path
    interface: str
    network: ipaddress.IPv4Network


def hardware(host: str) -> str:
    """The hardware address that Docker gives a host of the overlay."""
    return "02:42:" + ipaddress.IPv4Address(host).packed.hex(":")


def mark(host: str) -> int:
    """What connections through this host are marked with."""
    return MARK | int(ipaddress.IPv4Address(host)) & 0xFFFF


def prepare(place: Place, hosts: Collection[str], before: Collection[str], enter: Enter) -> None:
    """Make the ways to these hosts, and no others. `before` are those made earlier. OSError or NftError."""
    if place.network.prefixlen < LONGEST_PREFIX:
        raise NftError(f"the ingress network {place.network} is larger than /{LONGEST_PREFIX}")
    if len(hosts) > MOST_HOSTS:
        raise NftError(f"there are {len(hosts)} nodes; {MOST_HOSTS} are supported")

    def work() -> None:
        for host in hosts:
            routing.to_host(mark(host), host, place.interface)
        _loosen(place.interface)
        _accept_marks(True)
        _replace(place, sorted(hosts))
        _forget(set(before) - set(hosts))

    visit(place.path, enter, work)


def remove(place: Place, hosts: Collection[str], enter: Enter) -> None:
    """Take them away. OSError or NftError."""

    def work() -> None:
        _nft(_NONE)
        _accept_marks(False)
        _forget(hosts)

    visit(place.path, enter, work)


def used(place: Place, enter: Enter) -> bool:
    """Whether connections are left that need the ways; yes where the kernel does not tell."""
    try:
        return visit(place.path, enter, lambda: conntrack.carries(MARK, _UPPER))
    except OSError:
        return True


def _forget(hosts: Collection[str]) -> None:
    for host in hosts:
        routing.remove(mark(host))


def _loosen(interface: str) -> None:
    """A strict reverse path filter would drop clients that are not routed through the overlay."""
    base = _IPV4 / "conf"
    values = [int((base / name / "rp_filter").read_text()) for name in ("all", interface)]
    if max(values) == 1:
        routing.loosen(interface)


def _accept_marks(on: bool) -> None:
    """Have accepted sockets take the mark of the first packet. Connections find their ways without it, too.

    But then the route is found anew for every packet, and is not yet known when the handshake tells how long
    segments may be.
    """
    with contextlib.suppress(OSError):
        (_IPV4 / "tcp_fwmark_accept").write_text(str(int(on)))


def _replace(place: Place, hosts: Collection[str]) -> None:
    outside = _outside()
    if not outside or ipaddress.IPv4Address(outside) in place.network:
        _nft(_NONE + _table(place, hosts, ""))
        return
    try:
        _nft(_NONE + _table(place, hosts, f"socket wildcard 1 dnat to {outside}"))
    except NftError:  # before Linux 5.11 nobody tells; few servers listen at the overlay's address alone
        _nft(_NONE + _table(place, hosts, f"dnat to {outside}"))


def _outside() -> str:
    """The address that datagrams to outside come from; empty when there is no way out."""
    with socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(_ANYWHERE)
        except OSError:
            return ""
        return str(any_socket.getsockname()[0])


def _table(place: Place, hosts: Collection[str], lead: str) -> str:
    """`lead` is what is done with a conversation of UDP at its beginning."""
    marks = _elements(hosts, lambda host: f"{mark(host):#x}")
    zones = _elements(hosts, lambda host: str(mark(host) & 0xFFFF))
    marked = f"ct mark & {_UPPER:#x} == {MARK:#x}"
    datagrams = f"{marked} meta l4proto udp {lead};" if lead else ""
    where = f'iifname "{place.interface}" ip saddr != {place.network}'
    return (
        f"table {TABLE} {{\n"
        f"chain zones {{ type filter hook prerouting priority -300; {where} "
        f"ct original zone set ether saddr map {{ {zones} }}; }}\n"
        f"chain marks {{ type filter hook prerouting priority -150; {where} "
        f"ct direction original meta mark set ether saddr map {{ {marks} }} ct mark set meta mark; }}\n"
        f"chain datagrams {{ type nat hook prerouting priority -100; {datagrams} }}\n"
        f"chain sources {{ type nat hook postrouting priority 100; }}\n"
        f"chain ports {{ type nat hook input priority 100; }}\n"
        f"chain answers {{ type route hook output priority -150; "
        f"{marked} meta mark set ct mark; }}\n"
        "}\n"
    )


def _elements(hosts: Collection[str], value: Callable[[str], str]) -> str:
    return ", ".join(f"{hardware(host)} : {value(host)}" for host in hosts)


def _nft(text: str) -> None:
    """Have the commands done as one transaction."""
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise NftError(f"nft has not answered for {PATIENCE:g} s") from None
    if done.returncode:
        raise NftError(done.stderr.partition("Error: ")[2].partition("\n")[0] or done.stderr[:200])
