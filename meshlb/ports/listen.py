"""The sockets that published ports are served on: opened, told apart from Docker's, and led to.

A port that is free is bound as it is. One that Docker holds is served on a port of our own, with a redirect
(see `takeover`). Docker may also plant its rules for a port after we bound it: its daemon warns that it
cannot listen and keeps the rules, which lead away what comes in. `recheck` notices and leads it back.

Every socket is kept here a second time, to be handed to the agent that takes over from this one; and what an
agent before this one has left is taken before a socket is opened (see `inherited`).

A port may be for some addresses only (`listen`): each has its sockets then. A redirect is for all addresses
nevertheless: behind it nobody listens on the others, so their clients are refused, not led to Docker's mesh.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from meshlb.descriptors import OUT, RAISE, out
from meshlb.errors import PortError
from meshlb.kernel.nft import PublishedPort
from meshlb.model import Port, PortState, Protocol
from meshlb.ports.addresses import ANYWHERE, MOST, NOWHERE, chosen, has_ipv6, own_addresses
from meshlb.ports.holder import Holder, holder_of
from meshlb.ports.ingress import sandbox_addresses
from meshlb.ports.inherited import ByAddress, Inherited, Named, NoStore, Store, by_address, name_of
from meshlb.ports.takeover import Takeover

BACKLOG = 65535  # the kernel cuts it to net.core.somaxconn
# Accepted sockets inherit these from the listener, which spares each connection the calls.
Option = tuple[int, int, int]
OPTIONS: tuple[Option, ...] = (
    (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),  # a restart meets its own TIME_WAITs
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # An urgent byte that comes before anything else is ordinary to us; out of line it would be lost.
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
    # Finds clients that vanished; nothing else ends an idle connection.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
)
# Room for bursts, which the kernel cuts to net.core.rmem_max.
UDP_OPTIONS: tuple[Option, ...] = (
    (socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20),
)
# With each datagram comes the address that it was sent to.
UDP4_OPTIONS: tuple[Option, ...] = ((socket.IPPROTO_IP, 8, 1),)  # IP_PKTINFO, which the module does not name
UDP6_OPTIONS: tuple[Option, ...] = ((socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1),)
# An address may come later (a virtual one), or still be looked for elsewhere on the link (IPv6).
FREEBIND: Option = (socket.IPPROTO_IP, 15, 1)
Sockets = tuple[socket.socket, ...]
Addresses = tuple[str, ...]
EVERYWHERE: Addresses = ("",)
ALWAYS = "every port is redirected (takeover: always)"


@dataclass(frozen=True, slots=True)
class Opening:
    """A port that is being served: its sockets, and how connections come to them.

    As many of them for each address, in the order of the addresses.
    """

    sockets: Sockets
    state: PortState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Served:
    """What we remember of an open port: the number that we listen on, and why it is not the published one."""

    own: int
    why: str = ""
    listen: Addresses = ()  # the networks that it is for, where it is not for all
    addresses: Addresses = EVERYWHERE
    lacks: str = ""  # a sentence about addresses that came later


def listening_sockets(
    number: int, count: int, protocol: Protocol = Protocol.TCP, addresses: Addresses = EVERYWHERE
) -> Sockets:
    """`count` sockets for each address that share one port, 0 for one that the kernel chooses.

    All of them, or an OSError.
    """
    sockets: list[socket.socket] = []
    try:
        if number == 0 and addresses != EVERYWHERE:
            number = _free_number(protocol)
        for address in addresses:
            for index in range(count):
                sockets.append(_bound(number, protocol, address, first=index == 0))
                number = sockets[0].getsockname()[1]
        for each in sockets if protocol is Protocol.TCP else ():
            each.listen(BACKLOG)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return tuple(sockets)


def _bound(number: int, protocol: Protocol, address: str, first: bool) -> socket.socket:
    sock, where = _socket_at(protocol, address) if address else _socket(protocol)
    try:
        sock.setblocking(False)
        for option in _options(sock, protocol):
            sock.setsockopt(*option)
        # The first binds alone: with SO_REUSEPORT it would silently share the port with another process.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0 if first else 1)
        sock.bind((where, number))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        sock.close()
        raise
    return sock


def _free_number(protocol: Protocol) -> int:
    """A port that nobody has on any address, by the kernel's choice."""
    sock, anywhere = _socket(protocol)
    with sock:
        sock.bind((anywhere, 0))
        return int(sock.getsockname()[1])


def _options(sock: socket.socket, protocol: Protocol) -> tuple[Option, ...]:
    if protocol is Protocol.TCP:
        return OPTIONS
    # Without SO_REUSEADDR: of datagrams it would let others take the port from us.
    return UDP_OPTIONS + (UDP6_OPTIONS if sock.family is socket.AF_INET6 else UDP4_OPTIONS)


def _socket(protocol: Protocol) -> tuple[socket.socket, str]:
    """A socket for both families, or for IPv4 alone where the kernel has no IPv6, and its anywhere."""
    kind = _kind(protocol)
    try:
        sock = socket.socket(socket.AF_INET6, kind)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return socket.socket(socket.AF_INET, kind), "0.0.0.0"  # noqa: S104  published means everywhere
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock, "::"


def _socket_at(protocol: Protocol, address: str) -> tuple[socket.socket, str]:
    is_ipv4 = ipaddress.ip_address(address).version == 4
    sock = socket.socket(socket.AF_INET if is_ipv4 else socket.AF_INET6, _kind(protocol))
    if not is_ipv4:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(*FREEBIND)
    return sock, address


def _kind(protocol: Protocol) -> socket.SocketKind:
    return socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM


class Listeners:
    """Opens and closes the sockets of published ports. Not thread-safe: one thread at a time calls.

    The sockets belong to the caller, who closes them; `close` forgets the port and its redirect.
    """

    def __init__(
        self,
        takeover: Takeover,
        *,
        holder: Callable[[int, Protocol], Holder | None] = holder_of,
        sandbox: Callable[[], frozenset[str]] = sandbox_addresses,
        addresses: Callable[[], frozenset[str]] = own_addresses,
        inherited: Inherited | None = None,
        store: Store | None = None,
    ) -> None:
        self._takeover = takeover
        self._inherited, self._store = inherited or Inherited(), store or NoStore()
        self._kept: dict[Port, Sockets] = {}  # our own descriptors of what the caller has
        self._holder, self._sandbox, self._addresses = holder, sandbox, addresses
        self._served: dict[Port, _Served] = {}
        self._docker: frozenset[PublishedPort] = frozenset()  # what Docker led away when we last looked

    def open(self, port: Port, count: int, listen: Addresses = ()) -> Opening:
        """Listen for a port by the way that is open on this node. Raises PortError.

        There are `count` sockets for each address in the networks `listen`, or for all together without any.
        """
        served = _Served(port.published, listen=listen, addresses=self._chosen(port, listen))
        if found := self._inherited_of(port, served):
            try:
                return self._adopted(port, count, served, *found)
            except PortError:
                self._store.drop([name_of(port)])  # what is closed here would go on listening there
                raise
        if self._takeover.mode == "always":
            return self._redirected(port, count, replace(served, why=ALWAYS))
        try:
            sockets = listening_sockets(port.published, count, port.protocol, served.addresses)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise PortError(explained(error, port)) from None
        else:
            return self._accepted(port, sockets, served)
        return self._redirected(port, count, replace(served, why=self._why_docker_holds(port)))

    def places(self, port: Port, listen: Addresses = ()) -> int:
        """How many addresses a port would have sockets for. Raises PortError."""
        return len(self._chosen(port, listen))

    def more(self, port: Port, count: int) -> Sockets:
        """Sockets for addresses that have come to this node since: `count` for each, which may be 0."""
        served = self._served.get(port)
        if served is None or not served.listen:
            return ()
        sockets: Sockets = ()
        served = replace(served, lacks="")
        try:
            for address in self._chosen(port, served.listen):
                if address not in served.addresses and address != NOWHERE:
                    if not count:
                        raise PortError(f"no file descriptor is left for it; {RAISE}")
                    sockets += listening_sockets(served.own, count, port.protocol, (address,))
                    served = replace(served, addresses=(*served.addresses, address))
        except (OSError, PortError) as error:
            text = explained(error, port) if isinstance(error, OSError) else str(error)
            served = replace(served, lacks=f"an address that has come to this node is left out: {text}")
        self._served[port] = served
        self._keep(port, sockets)
        return sockets

    def again(self, port: Port) -> Sockets:
        """More descriptors of the sockets of an open port."""
        return tuple(each.dup() for each in self._kept.get(port, ()))

    def kept(self) -> tuple[Named, ...]:
        """The sockets of all open ports, for the agent that takes over. They stay ours to close."""
        return tuple((name_of(port), sockets) for port, sockets in self._kept.items())

    def close(self, port: Port) -> None:
        """Forget a port and drop its redirect. Its connections go on."""
        if self._served.pop(port, None):
            self._redirect()
        if self._let_go([port]):
            self._store.drop([name_of(port)])

    def close_all(self) -> None:
        """Forget all ports and drop their redirects."""
        self._served.clear()
        self._redirect()
        self._store.drop(map(name_of, self._let_go(list(self._kept))))

    def leave(self) -> None:
        """Forget all ports: another agent has their sockets, and redirects of its own to them."""
        self._served.clear()
        self._redirect()
        self._let_go(list(self._kept))

    def recheck(self) -> dict[Port, PortState]:
        """How each open port is served now. Cheap: call it after a change, and every ten seconds.

        It redirects ports for which Docker has planted rules since, gives up redirects that are no longer
        needed, and has them all rebuilt when the child that held them has died.
        """
        self._redirect()
        return {port: self._standing(port)[0] for port in self._served}

    def reason(self, port: Port) -> str:
        """Why an open port is not simply bound, or where it is not served; empty when it simply is."""
        return self._standing(port)[1] if port in self._served else ""

    def shutdown(self) -> None:
        """Forget all ports and take the redirects away. Redirected connections may end: drain them first."""
        self._served.clear()
        self._let_go(list(self._kept))
        self._takeover.close()

    def _chosen(self, port: Port, listen: Addresses) -> Addresses:
        if not listen:
            return EVERYWHERE
        try:
            found = chosen(listen, self._addresses(), has_ipv6())
        except OSError as error:
            raise PortError(explained(error, port)) from None
        if len(found) > MOST:
            raise PortError(
                f"port {port}: {len(found)} addresses of this node are in its listen; "
                f"name at most {MOST}, or a whole family: 0.0.0.0/0, ::/0"
            )
        return found or (NOWHERE,)

    def _inherited_of(self, port: Port, served: _Served) -> tuple[int, ByAddress] | None:
        """The number and the sockets that are left for a port, where they are for its addresses and way."""
        left = self._inherited.take(name_of(port))
        number, found = by_address(left, port.protocol)
        if served.addresses == EVERYWHERE and ANYWHERE[0] in found and not has_ipv6():
            found = {"": found.pop(ANYWHERE[0])}
        way = "never" if number != port.published else "always"
        unwanted = [each for each in found if each not in served.addresses or self._takeover.mode == way]
        for address in unwanted:
            for each in found.pop(address):
                each.close()
        if any(each.fileno() == -1 for each in left):
            # Elsewhere they would listen on, and nobody accept. What is adopted is kept anew.
            self._store.drop([name_of(port)])
        return (number, found) if found else None

    def _adopted(self, port: Port, count: int, served: _Served, number: int, found: ByAddress) -> Opening:
        """Serve a port on sockets that were left for it. An address that has none gets new ones."""
        why = "" if number == port.published else self._why_redirected(port)
        sockets: list[socket.socket] = []
        try:
            for address in served.addresses:
                mine = found.pop(address, None)
                sockets += mine or listening_sockets(number, count, port.protocol, (address,))
                if mine and port.protocol is Protocol.TCP:
                    # More workers than there were: they share. Of UDP they would tear conversations apart.
                    sockets += [mine[index % len(mine)].dup() for index in range(len(mine), count)]
        except OSError as error:
            for each in sockets + [one for rest in found.values() for one in rest]:
                each.close()
            raise PortError(explained(error, port)) from None
        return self._accepted(port, tuple(sockets), replace(served, own=number, why=why))

    def _why_redirected(self, port: Port) -> str:
        if self._takeover.mode == "always":
            return ALWAYS
        return "Docker held it when it was opened"

    def _keep(self, port: Port, sockets: Sockets) -> None:
        """Our own descriptors, and the store's."""
        mine = tuple(each.dup() for each in _distinct(sockets))
        self._kept[port] = self._kept.get(port, ()) + mine
        self._store.keep(name_of(port), mine)

    def _let_go(self, ports: Iterable[Port]) -> list[Port]:
        """Close our own descriptors of ports; those that had some."""
        gone = [port for port in ports if port in self._kept]
        for port in gone:
            for each in self._kept.pop(port):
                each.close()
        return gone

    def _redirected(self, port: Port, count: int, served: _Served) -> Opening:
        try:
            sockets = listening_sockets(0, count, port.protocol, served.addresses)
        except OSError as error:
            raise PortError(explained(error, port)) from None
        return self._accepted(port, sockets, replace(served, own=sockets[0].getsockname()[1]))

    def _accepted(self, port: Port, sockets: Sockets, served: _Served) -> Opening:
        """Lead the port's connections to the sockets; where that cannot be, close them and say why."""
        self._served[port] = served
        self._redirect()
        state, reason = self._standing(port)
        if state is not PortState.FAILED:
            self._keep(port, sockets)
            return Opening(sockets, state, reason)
        for each in sockets:
            each.close()
        self.close(port)
        raise PortError(f"port {port} is not served: {reason}")

    def _redirect(self) -> None:
        docker = self._docker = self._takeover.docker_publishes()
        wanted = {
            port.key: served.own for port, served in self._served.items() if _needs(port, served, docker)
        }
        self._takeover.set({} if self._takeover.mode == "never" else wanted)

    def _standing(self, port: Port) -> tuple[PortState, str]:
        served = self._served[port]
        if len(served.addresses) > MOST:  # most of them have left this node again
            return PortState.FAILED, "its addresses have changed so often that it is opened anew"
        if not _needs(port, served, self._docker):
            return PortState.SERVING, _remark(served)
        why = served.why or "Swarm's own mesh leads it away (chain DOCKER-INGRESS)"
        if self._takeover.mode == "never":
            return (
                PortState.FAILED,
                f"{why}, and meshlb was told not to take over: start it with --takeover auto",
            )
        if port.key not in self._takeover.redirects:
            return PortState.FAILED, f"{why}, and {self._takeover.problem}"
        remarks = (why, f"redirected to port {served.own}", _remark(served))
        return PortState.REDIRECTED, "; ".join(filter(None, remarks))

    def _why_docker_holds(self, port: Port) -> str:
        """The reason for a port that is in use by what we may take it from. Raises PortError for others."""
        if port.key in self._takeover.docker_publishes():
            return "Swarm's own mesh holds it (chain DOCKER-INGRESS)"
        if any(
            served.own == port.published and other.protocol is port.protocol
            for other, served in self._served.items()
        ):
            return "meshlb itself listens there for another port"
        holder = self._holder(port.published, port.protocol)
        if holder is None or not holder.is_docker or self._is_containers(holder):
            raise PortError(in_use(port, holder))
        return f"Docker holds it: {holder}"

    def _is_containers(self, holder: Holder) -> bool:
        """Whether it is the proxy of a container's own published port, which is not Swarm's to give."""
        sandbox = self._sandbox() if holder.container else frozenset()
        return bool(sandbox) and holder.container not in sandbox


def _distinct(sockets: Iterable[socket.socket]) -> Sockets:
    """One descriptor of each socket."""
    return tuple({os.fstat(each.fileno()).st_ino: each for each in sockets}.values())


def _needs(port: Port, served: _Served, docker: frozenset[PublishedPort]) -> bool:
    """Whether connections reach our sockets only by a redirect."""
    return served.own != port.published or port.key in docker


def _remark(served: _Served) -> str:
    """What is to be said of its addresses; empty when all is well."""
    if served.addresses == (NOWHERE,):
        return f"no address of this node is in its listen ({', '.join(served.listen)})"
    return served.lacks


def in_use(port: Port, holder: Holder | None) -> str:
    """The sentence for a port that is not ours to take."""
    if holder is None:
        return (
            f"port {port} is in use by a process that cannot be seen from here: find it with "
            f'"ss -l{port.protocol[0]}np sport = :{port.published}", '
            "or redirect past it with --takeover always"
        )
    if holder.ours:
        return (
            f"port {port} is still held by meshlb itself: it is being closed, or is the status page's address"
        )
    if holder.container:
        return (
            f"port {port} is held by {holder} for the container at {holder.container}: stop that "
            "container, or publish the service on another port"
        )
    return (
        f"port {port} is held by {holder}: stop it, publish the service on another port, "
        "or redirect past it with --takeover always"
    )


def explained(error: OSError, port: Port) -> str:
    """The sentence for a socket that the kernel refused."""
    if error.errno == errno.EACCES:
        return (
            f"port {port} needs the capability CAP_NET_BIND_SERVICE: run the agent as root, give its "
            "Python the capability with setcap, or set "
            f"sysctl net.ipv4.ip_unprivileged_port_start={port.published}"
        )
    if error.errno in OUT:
        return f"port {port} cannot be opened: {out(error.errno)}"
    return f"port {port} cannot be opened: {os.strerror(error.errno or 0)}"
