"""The channel between agents: managers tell what only they know, all others listen. Nothing waits for it.

A manager's agent serves (`peer_server.py`), an agent on any other node listens to those of all managers
(`peer_client.py`). Of several managers the one that was heard last rules: each tells its whole state whenever
that changes, and Raft keeps managers apart by milliseconds only. When the channel is lost, what was heard
last stays with whoever was told.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from meshlb.identity import Keeper, Peer
from meshlb.model import Desired
from meshlb.peer_client import Client, Pace, session
from meshlb.peer_message import Ledger, Message, MessageError, Version, encode
from meshlb.peer_server import Server

PORT = 7947
MAX_MANAGERS = 16  # more make a Swarm slower, not safer; Docker advises seven at most

log = logging.getLogger(__name__)

_ENDS = {
    "identity": "Swarm's certificates can be used again",
    "message": "what this manager knows can be told to other agents again",
    "server": "listening for other agents again",
    "client": "connected to a manager's agent again",
}


@dataclass(frozen=True, slots=True)
class PeerCounters:
    """Connections now, and events since the start."""

    clients: int = 0  # agents that listen to this one
    managers: int = 0  # managers' agents that this one listens to
    heard: int = 0  # states taken
    stale: int = 0  # states that were not newer
    refused: int = 0  # connections from others that were not let in or hung up on
    garbage: int = 0  # connections to managers that ended for what they sent or who they were


class Peers:
    """The channel of this agent. Its methods are called on the event loop; `problem` is for the user."""

    def __init__(
        self,
        root: Path,
        *,
        port: int = PORT,
        address: str = "",
        on_desired: Callable[[Desired], None],
        pace: Pace | None = None,
    ) -> None:
        self._pace, self._port, self._on_desired = pace or Pace(), port, on_desired
        self._troubles = dict.fromkeys(_ENDS, "")
        self._keeper = Keeper(
            root, lambda text: self._tell("identity", text), self._start_anew, self._pace.look
        )
        self._server = Server(
            address,
            port,
            lambda: self._keeper.current,
            lambda text: self._tell("server", text),
            self._pace.heartbeat,
        )
        self._clients: dict[str, tuple[Client, asyncio.Task[None]]] = {}
        self._managers: tuple[str, ...] = ()
        self._changed = asyncio.Event()  # the managers, or the Swarm
        self._anew = False
        self._ledger, self._epoch, self._count = Ledger(), secrets.token_hex(8), 0
        self._desired: Desired | None = None
        self._heard = self._stale = self._garbage = 0

    @property
    def problem(self) -> str:
        """Empty, or one sentence: what does not work and what to do."""
        return next((text for text in self._troubles.values() if text), "")

    @property
    def port(self) -> int:
        """Where other agents reach this one."""
        return self._server.port

    @property
    def counters(self) -> PeerCounters:
        """For the status."""
        clients = [client for client, _ in self._clients.values()]
        return PeerCounters(
            self._server.clients,
            sum(client.connected for client in clients),
            self._heard,
            self._stale,
            self._server.refused,
            self._garbage + sum(client.garbage for client in clients),
        )

    def publish(self, desired: Desired | None) -> None:
        """This node is a manager and knows this; None: it is not one, or not any more."""
        if desired == self._desired:
            return
        text = None
        if desired is not None:
            try:
                text = encode(Version(self._epoch, self._count + 1), desired)
            except MessageError as error:
                self._tell("message", f"cannot tell other agents what this manager knows: {error}")
                return
            self._count += 1
        self._desired = desired
        self._tell("message", "")
        members = desired.nodes if desired else ()
        self._server.offer(text, frozenset(node.id for node in members) - {""})

    def connect(self, managers: tuple[str, ...]) -> None:
        """Listen to the agents at exactly these addresses."""
        self._managers = tuple(dict.fromkeys(managers))[:MAX_MANAGERS]
        self._changed.set()

    async def run(self) -> None:
        """Serve and listen until cancelled. Trouble outside is told by `problem` and one line of log."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keeper.run())
            group.create_task(self._server.run())
            group.create_task(self._watch_clients())
            await self._run_clients(group)

    async def _run_clients(self, group: asyncio.TaskGroup) -> None:
        async with session() as http:
            while True:
                if self._anew:
                    self._anew = False
                    await self._hang_up(set(self._clients))
                await self._hang_up(self._clients.keys() - set(self._managers))
                for address in self._managers:
                    if address not in self._clients:
                        self._clients[address] = self._started(address, group, http)
                await self._changed.wait()
                self._changed.clear()

    def _started(
        self, address: str, group: asyncio.TaskGroup, http: aiohttp.ClientSession
    ) -> tuple[Client, asyncio.Task[None]]:
        client = Client(address, self._port, lambda: self._keeper.current, self._hear, self._pace)
        return client, group.create_task(client.run(http))

    async def _hang_up(self, addresses: set[str]) -> None:
        ended = [self._clients.pop(address) for address in addresses]
        for client, task in ended:
            self._garbage += client.garbage
            task.cancel()
        if ended:
            await asyncio.wait([task for _, task in ended])

    async def _watch_clients(self) -> None:
        """Calls it a problem when no manager's agent was there for a while; one of several is enough."""
        alone = 0.0
        step = min(0.25, self._pace.grace / 4)
        while True:
            clients = [client for client, _ in self._clients.values()]
            fine = not clients or any(client.connected for client in clients)
            alone = 0.0 if fine or not self._keeper.current else alone + step
            if fine:
                self._tell("client", "")
            elif alone >= self._pace.grace:
                self._tell("client", _unreachable(clients[0]))
            await asyncio.sleep(step)

    def _hear(self, peer: Peer, message: Message) -> None:
        if not self._ledger.is_news(peer.node_id, message.version):
            self._stale += 1
            return
        self._heard += 1
        self._on_desired(message.desired)

    def _start_anew(self) -> None:
        """The node has left its Swarm, or is in another one: nobody who is connected has a right to be."""
        self._server.drop()
        self._anew = True
        self._changed.set()

    def _tell(self, part: str, text: str) -> None:
        before, self._troubles[part] = self._troubles[part], text
        if text and not before:
            log.warning("%s", text)
        elif before and not text:
            log.info("%s", _ENDS[part])


def _unreachable(client: Client) -> str:
    return (
        f"no manager's agent is reachable ({client.place}: {client.reason or 'no answer yet'});"
        " run meshlb-agent on the managers and let the nodes reach that port over TCP"
    )
