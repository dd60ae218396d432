"""Listens to one node's agent: connects, checks who it is, takes its states, connects again for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp import ClientWebSocketResponse, ClientWSTimeout, WSMsgType

from meshlb.model import endpoint
from meshlb.peers.allowance import Allowance
from meshlb.peers.identity import Identity, IdentityError, Peer, peer_of
from meshlb.peers.message import LANGUAGES, LOOKING, MAX_BYTES, PATH, Message, MessageError, decode
from meshlb.peers.shown import asks, is_shown
from meshlb.peers.wire import Wire

CONNECTING = 5.0  # seconds for TCP, TLS and the WebSocket's handshake together
BREATHER = 0.02  # seconds after each message, so that no sender can keep this node busy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between things. Each delay doubles up to the last, and a random half of it is left out."""

    # Of WebSocket's own, which notices an agent that hangs; nodes that vanish are watched otherwise.
    heartbeat: float = 60.0
    first_delay: float = 0.25
    last_delay: float = 5.0
    grace: float = 5.0  # without any manager's agent, before it is called a problem
    look: float = 2.0  # between looks at Swarm's certificates
    tick: float = 0.125  # between looks at who is silent; twice as long while nobody is
    kept: float = 10.0  # that the states of a node's tasks outlive the connection to its agent


def session(dated: Callable[[str, str], None] = lambda host, date: None) -> aiohttp.ClientSession:
    """What `Client` connects with; close it at the end. `dated` hears hosts and their answers' dates."""

    async def answered(_: object, __: object, params: aiohttp.TraceRequestEndParams) -> None:
        dated(params.url.host or "", params.response.headers.get("Date", ""))

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(answered)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    jar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(connector=connector, cookie_jar=jar, trace_configs=[trace])


def ahead(date: str, now: float) -> int | None:
    """Seconds that a clock which says this is ahead of `now`; None when it says nothing of use (pure)."""
    try:
        told = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return round(told + 0.5 - now)  # the seconds' fractions are not told


class Client:
    """One node's agent, as heard from here. `answered` is called whenever that node answers a connection."""

    def __init__(
        self,
        address: str,
        port: int,
        identity: Callable[[], Identity | None],
        hear: Callable[[str, Peer, Message], None],
        *,
        answered: Callable[[str], None],
        pace: Pace,
        see: Callable[[str, Peer, str], None] = lambda address, peer, text: None,
        look: float = 0.0,
    ) -> None:
        self.address = address
        self.place = endpoint(address, port)
        self._identity, self._hear, self._answered, self._pace = identity, hear, answered, pace
        self._see, self._look, self._looking = see, look, asyncio.Event()
        self._complained = ""
        self._delay = pace.first_delay
        self._wire: Wire | None = None
        self.connected = False
        self.reason = ""  # why not
        self.garbage = 0

    @property
    def age(self) -> float | None:
        """Seconds since the node's last sign of life on this connection; None when there is none."""
        return self._wire.age() if self._wire else None

    def look(self, every: float) -> None:
        """Ask to be shown counts and events that often, in seconds; 0: not any more."""
        self._look = every
        self._looking.set()

    async def run(self, http: aiohttp.ClientSession) -> None:
        """Listen until cancelled, whatever happens."""
        await asyncio.sleep(random.uniform(0, self._pace.first_delay / 4))  # noqa: S311  # not all at once
        while True:
            identity = self._identity()
            if identity:
                await self._attempt(http, identity)
            await asyncio.sleep(self._delay * random.uniform(0.5, 1))  # noqa: S311
            self._delay = min(self._delay * 2, self._pace.last_delay)

    async def _attempt(self, http: aiohttp.ClientSession, identity: Identity) -> None:
        try:
            await self._listen(http, identity)
            self.reason = "it hung up"
        except (MessageError, IdentityError) as error:
            self.garbage += 1
            self.reason = str(error)
            self._delay = self._pace.last_delay
            self._complain()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.reason = _reason(error)
            if isinstance(error, aiohttp.ClientConnectorError) and _is_refusal(error.os_error):
                self._answered(self.address)
            log.debug("no connection to the agent at %s: %s", self.place, self.reason)
        finally:
            self.connected = False

    def _complain(self) -> None:
        if self.reason != self._complained:
            self._complained = self.reason
            log.warning("hung up on the agent at %s: %s", self.place, self.reason)

    async def _listen(self, http: aiohttp.ClientSession, identity: Identity) -> None:
        async with asyncio.timeout(CONNECTING) as limit, self._connect(http, identity) as socket_:
            peer = peer_of(socket_.get_extra_info("ssl_object"), identity.cluster)
            if socket_.protocol not in LANGUAGES:
                raise MessageError("it speaks another language; run one release of meshlb everywhere")
            limit.reschedule(None)
            self._answered(self.address)
            log.debug("connected to the agent of node %s at %s", peer.node_id, self.place)
            with self._watched(socket_):
                async with self._asking(socket_):
                    await self._take_all(socket_, peer)

    async def _take_all(self, socket_: ClientWebSocketResponse, peer: Peer) -> None:
        clock = asyncio.get_running_loop().time
        allowance = Allowance(clock())
        async for message in socket_:
            size = len(message.data) if isinstance(message.data, str | bytes) else 0
            if not allowance.take(size, clock()):
                raise MessageError("it sends more than any agent does")
            if message.type is WSMsgType.PING:
                await socket_.pong(message.data)
            elif message.type is not WSMsgType.PONG:
                self._take(peer, message.type, message.data)
            await asyncio.sleep(BREATHER)

    @contextlib.asynccontextmanager
    async def _asking(self, socket_: ClientWebSocketResponse) -> AsyncIterator[None]:
        """Say when somebody looks here, to agents that understand it."""
        task = asyncio.create_task(self._ask(socket_)) if socket_.protocol == LOOKING else None
        try:
            yield
        finally:
            if task:
                task.cancel()
                await asyncio.wait([task])

    async def _ask(self, socket_: ClientWebSocketResponse) -> None:
        said = 0.0
        with contextlib.suppress(aiohttp.ClientError, OSError):  # whoever listens notices that, too
            while True:
                self._looking.clear()
                if self._look != said:
                    said = self._look
                    await socket_.send_str(asks(said))
                await self._looking.wait()

    @contextlib.contextmanager
    def _watched(self, socket_: ClientWebSocketResponse) -> Iterator[None]:
        below = socket_.get_extra_info("socket")
        if below is None:
            raise ConnectionError("the connection broke")
        wire = self._wire = Wire(below.fileno())
        try:
            yield
        finally:
            self._wire = None
            wire.cut()

    def _connect(
        self, http: aiohttp.ClientSession, identity: Identity
    ) -> AbstractAsyncContextManager[ClientWebSocketResponse]:
        return http.ws_connect(
            f"https://{self.place}{PATH}",
            ssl=identity.client,
            protocols=LANGUAGES,
            heartbeat=self._pace.heartbeat,
            autoping=False,  # pings count as messages do
            timeout=ClientWSTimeout(ws_close=1.0),
            compress=0,
            max_msg_size=MAX_BYTES,
        )

    def _take(self, peer: Peer, kind: WSMsgType, data: object) -> None:
        if kind is WSMsgType.ERROR:
            broken = isinstance(data, aiohttp.WebSocketError)
            raise MessageError(str(data)) if broken else ConnectionError("the connection broke")
        if not isinstance(data, str):
            raise MessageError("it sends something that is not text")
        if is_shown(data):
            self._see(self.address, peer, data)
            return
        self._hear(self.address, peer, decode(data))
        self.connected, self.reason, self._delay = True, "", self._pace.first_delay
        self._complained = ""


def _is_refusal(error: OSError) -> bool:
    """Whether the host itself has answered: by refusing, or with what is not TLS."""
    return isinstance(error, ConnectionRefusedError | ConnectionResetError | ssl.SSLError)


def _reason(error: Exception) -> str:
    """The cause in a few words, without aiohttp's repetition of the address."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"it refused this node's agent ({error.status})"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _reason_of_tls(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _reason_of_tls(error.os_error)
    return str(error) or type(error).__name__


def _reason_of_tls(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not one of this Swarm: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
