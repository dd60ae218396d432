"""Tells other agents what this node knows: WebSockets over TLS, to nodes of the own Swarm only.

A connection is accepted or refused (too many), shakes hands (who has no certificate of this Swarm ends
here), asks for the WebSocket, and is then told the newest states whenever there is a newer one. Whoever reads
slowly gets the newest states next, and never sees those in between: nothing queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable

from aiohttp import WSCloseCode, WSMsgType, web

from meshlb.peers.allowance import Allowance, pause_after
from meshlb.peers.identity import MANAGER, Identity, IdentityError, Peer, peer_of
from meshlb.peers.message import DESIRED, FORMER, LANGUAGES, LOOKING, PATH, SUBPROTOCOL, MessageError
from meshlb.peers.shown import Looker, asked
from meshlb.peers.wire import watch_over

MAX_CLIENTS = 512  # twice as many nodes as an agent listens to: each may be replacing its own
MAX_OF_NODE = 4  # a node has one agent, for a moment two
MAX_HANDSHAKES = 64
MAX_HANDSHAKES_OF_ADDRESS = 8  # so that one address cannot keep the others out
HANDSHAKE = 5.0  # seconds for TLS, and again for the request
SENDING = 10.0  # seconds for one message; who takes longer is as good as dead

log = logging.getLogger(__name__)

_BIND_ERRORS = {
    errno.EADDRINUSE: "another process listens there; stop it, or move all agents with --peers",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --peers",
    errno.EACCES: "ports below 1024 need the capability CAP_NET_BIND_SERVICE; choose another with --peers",
}
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  # is compared with
# accept() fails with these though the listener is well: wait for better times.
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)


class Server:
    """Listens while it runs. `tell` hears one sentence while it cannot, then nothing."""

    def __init__(
        self,
        address: str,
        port: int,
        identity: Callable[[], Identity | None],
        tell: Callable[[str], None],
        watched: Callable[[bool], None] = lambda on: None,
    ) -> None:
        self._address, self._wanted_port, self._identity, self._tell = address, port, identity, tell
        self._watched = watched
        self._texts: dict[str, str] = {}  # by part
        self._shown: dict[str, str] = {}  # by kind, while anybody looks
        self._lookers: set[Looker] = set()
        self._members: frozenset[str] = frozenset()
        self._news = asyncio.Event()  # set and replaced at each change, so that nobody can miss one
        self._http: web.Server | None = None
        self._handshakes: Counter[str] = Counter()  # under way, by address
        # Connections that have not asked for anything yet, and the role that this node's certificate gave it.
        self._silent: dict[object, str] = {}
        self._clients: Counter[str] = Counter()  # by node id
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = port
        self.refused = 0

    @property
    def clients(self) -> int:
        """Agents that are connected."""
        return self._clients.total()

    def offer(self, part: str, text: str | None) -> None:
        """Tell everyone this state of `part` from now on; None: there is none."""
        if text is None:
            self._texts.pop(part, None)
        else:
            self._texts[part] = text
        self._stir()

    def show(self, kind: str, text: str) -> None:
        """Tell this to those who look, from now on."""
        if self._lookers:
            self._shown[kind] = text
            self._stir()

    def admit(self, members: frozenset[str]) -> None:
        """Let only these nodes in, if any are named; others are hung up on."""
        if members != self._members:
            self._members = members
            self._stir()

    def look_again(self) -> None:
        """This node's certificate is another one."""
        self._stir()

    def _stir(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        http = self._http = web.Server(self._handle, access_log=None, lingering_time=0, max_line_size=1024)
        try:
            await self._listen(http)
        finally:
            self.drop()
            await asyncio.sleep(0)  # a welcome that has not begun would not close its connection
            await _end(*self._tasks)
            await http.shutdown(1.0)

    def drop(self) -> None:
        """Hang up on everyone."""
        for connection in self._http.connections if self._http else ():
            connection.force_close()

    async def _listen(self, http: web.Server) -> None:
        delay = 0.5
        while True:
            try:
                with _bind(self._address, self._wanted_port) as listener:
                    self.port = listener.getsockname()[1]
                    self._tell("")
                    delay = 0.5
                    await self._accept(http, listener)
            except OSError as error:
                reason = _BIND_ERRORS.get(error.errno or 0, error.strerror or str(error))
                place = f"{self._address or '*'}:{self._wanted_port}"
                self._tell(f"cannot listen for other agents on {place}: {reason}")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)

    async def _accept(self, http: web.Server, listener: socket.socket) -> None:
        while True:
            await _readable(listener)
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in _SHORTAGE:
                    raise
                await asyncio.sleep(0.1)
                continue
            connection.setblocking(False)
            task = asyncio.create_task(self._welcome(http, connection, _plain(address[0])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _welcome(self, http: web.Server, connection: socket.socket, address: str) -> None:
        identity = self._identity()
        if identity is None or self._is_full(http, address):
            self.refused += 1
            connection.close()
            return
        self._handshakes[address] += 1
        try:
            await self._shake_hands(http, connection, identity)
        finally:
            self._handshakes[address] -= 1
            self._handshakes += Counter()  # forgets those who have none

    def _is_full(self, http: web.Server, address: str) -> bool:
        under_way = self._handshakes.total()
        return (
            len(http.connections) + under_way >= MAX_CLIENTS
            or under_way >= MAX_HANDSHAKES
            or self._handshakes[address] >= MAX_HANDSHAKES_OF_ADDRESS
        )

    async def _shake_hands(self, http: web.Server, connection: socket.socket, identity: Identity) -> None:
        loop = asyncio.get_running_loop()
        protocol = http()  # not what the call returns: uvloop returns the one of TLS
        self._silent[protocol] = identity.role
        try:
            watch_over(connection)
            await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=identity.server,
                ssl_handshake_timeout=HANDSHAKE,
                ssl_shutdown_timeout=1.0,
            )
        except ConnectionResetError:  # another node has only looked whether this one answers
            self._silent.pop(protocol, None)
            connection.close()
            return
        except OSError as error:  # anyone may cause this at any rate: counted, not logged
            self.refused += 1
            self._silent.pop(protocol, None)
            connection.close()
            log.debug("refused a connection in its handshake: %s", error)
            return
        # aiohttp waits for a first request for ever.
        loop.call_later(HANDSHAKE, self._hang_up_if_silent, protocol)

    def _hang_up_if_silent(self, protocol: web.RequestHandler) -> None:
        if self._silent.pop(protocol, None) is not None:
            protocol.force_close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        role = self._silent.pop(request.protocol, "")
        socket_ = web.WebSocketResponse(
            autoping=False,  # pings count as messages do
            compress=False,  # a small message could be a large one
            max_msg_size=1024,
            timeout=1.0,
            protocols=LANGUAGES,
        )
        try:
            peer = self._admit(request, socket_)
        except IdentityError as error:
            self.refused += 1
            log.warning("refused an agent at %s: %s", _plain(request.remote or ""), error)
            refusal = web.Response(status=403, text=f"{error}\n")
            refusal.force_close()
            return refusal
        self._clients[peer.node_id] += 1
        try:
            await socket_.prepare(request)
            await self._talk(socket_, request, peer, role)
        finally:
            self._clients[peer.node_id] -= 1
            self._clients += Counter()
        return socket_

    def _admit(self, request: web.BaseRequest, socket_: web.WebSocketResponse) -> Peer:
        """Who it is; IdentityError when it has no business here."""
        identity = self._identity()
        if identity is None:
            raise IdentityError("this node has no certificate of the Swarm now")
        transport = request.transport
        peer = peer_of(transport.get_extra_info("ssl_object") if transport else None, identity.cluster)
        if not self._is_member(peer):
            raise IdentityError(f"the node {peer.node_id} is not in docker node ls (any more)")
        if self._clients[peer.node_id] >= MAX_OF_NODE:
            raise IdentityError(f"the node {peer.node_id} has {MAX_OF_NODE} connections already")
        if request.path != PATH or socket_.can_prepare(request).protocol not in LANGUAGES:
            raise IdentityError(f"this agent speaks {SUBPROTOCOL} at {PATH} only; run one release everywhere")
        return peer

    def _is_member(self, peer: Peer) -> bool:
        """A node that was removed from the Swarm keeps its certificate; only the managers' list tells."""
        return not self._members or peer.node_id in self._members

    def _is_still(self, role: str) -> bool:
        """Whether this node's certificate gives it the role that it had: who is connected goes by that."""
        identity = self._identity()
        return identity is None or identity.role == role

    async def _talk(
        self, socket_: web.WebSocketResponse, request: web.BaseRequest, peer: Peer, role: str
    ) -> None:
        looker = Looker()
        sending = asyncio.create_task(self._send(socket_, request, peer, looker, role))
        try:
            await self._hear(socket_, peer, looker)
        finally:
            self._look(looker, 0.0)
            await _end(sending)
            await socket_.close(code=WSCloseCode.POLICY_VIOLATION)

    async def _hear(self, socket_: web.WebSocketResponse, peer: Peer, looker: Looker) -> None:
        """Until it hangs up, or says more than that it is there, or that somebody looks there."""
        clock = asyncio.get_running_loop().time
        allowance = Allowance(clock())
        while True:
            message = await socket_.receive()
            if message.type is WSMsgType.PING and allowance.take(len(message.data), clock()):
                await socket_.pong(message.data)
            elif self._may_ask(socket_, message.type) and allowance.take(len(message.data), clock()):
                try:
                    self._look(looker, asked(message.data))
                except MessageError:
                    self._complain(peer, message.data)
                    return
            elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.ERROR, WSMsgType.PING):
                self._complain(peer, message.data)
                return
            elif message.type is not WSMsgType.PONG or not allowance.take(len(message.data), clock()):
                return

    @staticmethod
    def _may_ask(socket_: web.WebSocketResponse, kind: WSMsgType) -> bool:
        return kind is WSMsgType.TEXT and socket_.ws_protocol == LOOKING

    def _look(self, looker: Looker, every: float) -> None:
        before = bool(self._lookers)
        looker.ask(every)
        (self._lookers.add if every else self._lookers.discard)(looker)
        if not self._lookers:
            self._shown.clear()  # it would be old for the next one
        if bool(self._lookers) != before:
            self._watched(not before)
        self._stir()

    def _complain(self, peer: Peer, data: object) -> None:
        if isinstance(data, OSError | TimeoutError):
            return  # the connection broke
        self.refused += 1
        log.warning("hung up on the agent of node %s: it may listen here, not talk", peer.node_id)

    async def _send(
        self, socket_: web.WebSocketResponse, request: web.BaseRequest, peer: Peer, looker: Looker, role: str
    ) -> None:
        """The newest states at each change; returns when this peer is to be told no more.

        What only managers tell is not told where this node has not been met as one.
        """
        left_out = {DESIRED} if role != MANAGER else set()
        sent: dict[str, str] = {}
        with contextlib.suppress(OSError):  # the connection broke; receive() tells that too
            while self._is_member(peer) and self._is_still(role):
                news = self._news
                told = {part: text for part, text in self._texts.items() if part not in left_out}
                fresh = {part: text for part, text in told.items() if text is not sent.get(part)}
                if socket_.ws_protocol == FORMER:
                    fresh = {part: text for part, text in fresh.items() if part == DESIRED}
                shown = looker.next(self._shown, asyncio.get_running_loop().time())
                if not fresh and not shown:
                    await news.wait()
                for text in (*fresh.values(), *shown):
                    if not await _deliver(socket_, request, text):
                        return
                sent |= fresh
                if fresh:
                    await asyncio.sleep(pause_after(sum(map(len, fresh.values()))))
            await socket_.close(code=WSCloseCode.GOING_AWAY)


async def _deliver(socket_: web.WebSocketResponse, request: web.BaseRequest, text: str) -> bool:
    try:
        async with asyncio.timeout(SENDING):
            await socket_.send_str(text)
    except TimeoutError:
        if request.transport:
            request.transport.abort()  # to close it would wait for the reader
        return False
    return True


def _plain(address: str) -> str:
    """An IPv4 client's address as it is written: a socket for both families has it inside of an IPv6 one."""
    return address.removeprefix("::ffff:") if "." in address else address


async def _readable(listener: socket.socket) -> None:
    """Unlike `sock_accept` it has no connection in its hands that would be lost when it is cancelled."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(listener, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(listener)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _bind(address: str, port: int) -> socket.socket:
    """A listening socket on `address`, or on all of both families where there are both.

    Which of them nodes have is the Swarm's choice: who says "all" in the words of one means the other, too.
    """
    dual = address in _EVERYWHERE and socket.has_dualstack_ipv6()
    address = "" if dual else address
    family = socket.AF_INET6 if dual or ":" in address else socket.AF_INET
    listener = socket.create_server(
        (address, port), family=family, backlog=MAX_HANDSHAKES, dualstack_ipv6=dual
    )
    listener.setblocking(False)
    return listener
