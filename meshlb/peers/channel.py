"""The channel between agents: each tells what only it knows, and listens to all others. Nothing waits for it.

Every agent serves (`server.py`) and listens to those of all other nodes (`client.py`); which nodes are
silent is told by `watch.py`. What is heard is believed by `beliefs.py`. Of several managers the one that was
heard last rules: each tells its whole state whenever that changes, and Raft keeps managers apart by
milliseconds only. When the channel is lost, what managers told last stays with whoever was told.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from meshlb.model import BackendState, Desired, Prepared, Remote
from meshlb.peers import shown
from meshlb.peers.beliefs import Beliefs
from meshlb.peers.client import Client, Pace, ahead, session
from meshlb.peers.dial import Dials
from meshlb.peers.echo import Echo
from meshlb.peers.identity import Identity, Keeper, Peer
from meshlb.peers.message import DESIRED, TASKS, Message, MessageError, Version, encode, encode_tasks, untold
from meshlb.peers.server import Server
from meshlb.peers.watch import DIALLING, Asking, Dialling, Watch

PORT = 7947
MAX_PEERS = 256  # a Swarm of more nodes works; of the others only gossip tells
SHOWN = 5  # nodes that a line of log names
AT_ONCE = 10.0  # agents that are heard each second while somebody looks

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
    peers: int = 0  # agents that this one listens to
    heard: int = 0  # states taken
    stale: int = 0  # states that were not newer
    foreign: int = 0  # claims about tasks that another node runs
    refused: int = 0  # connections from others that were not let in or hung up on
    garbage: int = 0  # connections to others that ended for what they sent or who they were


class Peers:
    """The channel of this agent. Its methods are called on the event loop; `problem` is for the user.

    `on_desired` hears what managers tell, `on_remote` what is known of other nodes, each when it has changed.
    `prepared` was told to an earlier agent.
    """

    def __init__(
        self,
        root: Path,
        *,
        port: int = PORT,
        address: str = "",
        on_desired: Callable[[Desired], None],
        on_remote: Callable[[Remote], None] = lambda remote: None,
        on_shown: Callable[[str, shown.Shown], None] = lambda address, told: None,
        on_watched: Callable[[bool], None] = lambda on: None,
        pace: Pace | None = None,
        ask: tuple[Asking, Dialling] | None = None,
        prepared: Mapping[str, Prepared] | None = None,
    ) -> None:
        self._pace, self._port, self._on_desired, self._on_remote = (
            pace or Pace(),
            port,
            on_desired,
            on_remote,
        )
        self._on_shown, self._looking = on_shown, False
        self._troubles = dict.fromkeys(_ENDS, "")
        self._keeper = Keeper(
            root, lambda text: self._tell("identity", text), self._start_anew, self._pace.look
        )
        self._server = Server(
            address, port, lambda: self._keeper.current, lambda text: self._tell("server", text), on_watched
        )
        self._keeper.renewed = self._server.look_again
        self._clients: dict[str, tuple[Client, asyncio.Task[None]]] = {}
        self._wanted: tuple[str, ...] = ()
        self._addresses: tuple[str, ...] = ()
        self._clocks: dict[str, int] = {}
        self._managers: frozenset[str] = frozenset()
        self._changed = asyncio.Event()  # the addresses, who is silent, or the Swarm
        self._anew = False
        self._watch = Watch(*(ask or (Echo(), Dials(port, DIALLING))), self._age)
        self._beliefs = Beliefs(self._pace.kept, prepared)
        self._epoch, self._count = secrets.token_hex(8), 0
        self._desired: Desired | None = None
        self._states: Mapping[str, BackendState] | None = None
        self._prepared: Prepared | None = None
        self._data: str | None = None
        self._advised: Desired | None = None  # by managers, last
        self._remote = Remote()
        self._garbage = 0
        self._informed = 0.0  # when a manager's agent was last there
        self._advised_until = 0.0  # when one was that tells how services are meant to be
        self.tell({})

    @property
    def problem(self) -> str:
        """Empty, or one sentence: what does not work and what to do."""
        return next((text for text in self._troubles.values() if text), "")

    @property
    def port(self) -> int:
        """Where other agents reach this one."""
        return self._server.port

    @property
    def identity(self) -> Identity | None:
        """Who this node is, once its certificate was read."""
        return self._keeper.current

    @property
    def addresses(self) -> tuple[str, ...]:
        """The other nodes."""
        return self._addresses

    @property
    def remote(self) -> Remote:
        """What is known of them."""
        return self._remote

    @property
    def counters(self) -> PeerCounters:
        """For the status."""
        clients = [client for client, _ in self._clients.values()]
        return PeerCounters(
            self._server.clients,
            sum(client.connected for client in clients),
            self._beliefs.heard,
            self._beliefs.stale,
            self._beliefs.foreign,
            self._server.refused,
            self._garbage + sum(client.garbage for client in clients),
        )

    @property
    def clocks(self) -> dict[str, int]:
        """Seconds that the clocks of other nodes were ahead of ours when they were connected to."""
        return {address: self._clocks[address] for address in self._addresses if address in self._clocks}

    def publish(self, desired: Desired | None) -> None:
        """This node is a manager and knows this; None: it is not one, or not any more."""
        complaint = next(iter(untold(desired)), "") if desired else ""
        if desired == self._desired:
            self._tell("message", complaint)
            return
        text = None
        if desired is not None:
            try:
                text = encode(self._next_version(), desired)
            except MessageError as error:
                self._tell("message", f"cannot tell other agents what this manager knows: {error}")
                return
            self._know(desired)
        self._desired = desired
        self._tell("message", complaint)
        self._server.offer(DESIRED, text)

    def tell(
        self, states: Mapping[str, BackendState], prepared: Prepared | None = None, data: str | None = None
    ) -> None:
        """The states of this node's own tasks that are not simply up, by their ids, and what is prepared.

        And the address that it has for its data, empty where it has none for that alone.
        """
        if (states, prepared, data) == (self._states, self._prepared, self._data):
            return
        try:
            self._server.offer(TASKS, encode_tasks(self._next_version(), states, prepared, data))
        except MessageError as error:  # an engine whose ids are none
            log.warning("cannot tell other agents the states of this node's tasks: %s", error)
        self._states, self._prepared, self._data = dict(states), prepared, data

    def look(self, on: bool) -> None:
        """Whether somebody looks at this node's page: then the other agents are asked what they count."""
        if on != self._looking:
            self._looking = on
            for client, _ in self._clients.values():
                client.look(self._look)

    @property
    def _look(self) -> float:
        """Seconds between two messages with counts of one agent: of many, each is asked less often."""
        return max(shown.SOONEST, len(self._addresses) / AT_ONCE) if self._looking else 0.0

    def show(self, kind: str, at: float, document: Mapping[str, object]) -> None:
        """Tell the agents at whose pages somebody looks what was counted, or what happened."""
        self._server.show(kind, shown.encode(kind, at, document))

    def connect(self, addresses: Collection[str], managers: Collection[str] = ()) -> None:
        """Listen to the agents at these addresses; without any of `managers` something is wrong.

        A node that is silent is looked for as long as managers list it, though gossip has dropped it.
        """
        self._wanted, self._managers = (*managers, *addresses), frozenset(managers)
        self._follow()

    def _follow(self) -> None:
        listed = {node.address for node in self._beliefs.nodes}
        silent = sorted(self._watch.suspected & listed)
        self._addresses = tuple(dict.fromkeys((*self._wanted, *silent)))[:MAX_PEERS]
        self._clocks = self.clocks
        self._beliefs.addresses = self._addresses
        self._watch.follow(self._addresses)
        self._changed.set()

    def place(self, hosts: Mapping[str, str]) -> None:
        """The address of the node that runs a task, by the task's id, as gossip shows it."""
        self._beliefs.hosts = hosts

    async def run(self) -> None:
        """Serve and listen until cancelled. Trouble outside is told by `problem` and one line of log."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keeper.run())
                group.create_task(self._server.run())
                group.create_task(self._look_around())
                await self._run_clients(group)
        finally:
            self._watch.close()

    async def _run_clients(self, group: asyncio.TaskGroup) -> None:
        """Keep a client for each node that is not silent: when it is back, it is dialled anew at once."""
        async with session(self._dated) as http:
            while True:
                if self._anew:
                    self._anew = False
                    self._hang_up(set(self._clients))
                wanted = dict.fromkeys(a for a in self._addresses if a not in self._watch.suspected)
                self._hang_up(self._clients.keys() - wanted.keys())
                for address in wanted:
                    if address not in self._clients:
                        self._clients[address] = self._started(address, group, http)
                await self._changed.wait()
                self._changed.clear()

    def _started(
        self, address: str, group: asyncio.TaskGroup, http: aiohttp.ClientSession
    ) -> tuple[Client, asyncio.Task[None]]:
        client = Client(
            address,
            self._port,
            lambda: self._keeper.current,
            self._hear,
            answered=self._watch.answered,
            pace=self._pace,
            see=self._see,
            look=self._look,
        )
        return client, group.create_task(client.run(http))

    def _dated(self, host: str, date: str) -> None:
        by = ahead(date, time.time()) if host in self._clients else None
        if by is not None:
            self._clocks[host] = by

    def _hang_up(self, addresses: Collection[str]) -> None:
        """End these clients, without waiting: the other end may not be there."""
        for client, task in [self._clients.pop(address) for address in addresses]:
            self._garbage += client.garbage
            task.cancel()

    async def _look_around(self) -> None:
        """The only clock of the channel: who is silent, and what is still to be believed.

        Each look costs more by waking up than by what it does, so there are as few as possible.
        """
        clock = asyncio.get_running_loop().time
        while True:
            now = clock()
            self._watch.tick(now)
            self._look_for_managers(now)
            self._look_at_advice(now)
            for address, (client, _) in self._clients.items():
                if client.connected:
                    self._beliefs.connected(address, now)
            self._report(now)
            await asyncio.sleep(self._pace.tick * (2 if self._watch.calm else 1))

    def _report(self, now: float) -> None:
        """Tell what is known of other nodes, if that is something else now."""
        tasks = self._beliefs.tasks(now)
        told = self._beliefs
        silent = self._watch.suspected, self._watch.dead
        remote = Remote(tasks, *silent, told.prepared(), paths=told.paths())
        if remote == self._remote:
            return
        before, self._remote = self._remote, remote
        _log_silence(before, remote, self._addresses)
        if before.suspected != remote.suspected:
            self._changed.set()
        self._on_remote(remote)

    def _age(self, address: str) -> float | None:
        client = self._clients.get(address)
        return client[0].age if client else None

    def _look_for_managers(self, now: float) -> None:
        """Calls it a problem when no manager's agent was there for a while; one of several is enough."""
        clients = [self._clients[address][0] for address in self._managers if address in self._clients]
        fine = not self._managers or any(client.connected for client in clients)
        if fine or not self._keeper.current:
            self._informed = now
        if fine:
            self._tell("client", "")
        elif now - self._informed >= self._pace.grace:
            self._tell("client", self._unreachable(clients))

    def _look_at_advice(self, now: float) -> None:
        """What managers told is old some time after the last of them was heard."""
        told = self._beliefs.advisers
        if any(client.connected for address, (client, _) in self._clients.items() if address in told):
            self._advised_until = now
        elif now - self._advised_until >= self._pace.grace:
            self._let_advice_age()

    def _let_advice_age(self) -> None:
        """Nor is anything stopped any more: what was about to be has been by now, or lives on."""
        if self._advised is None:
            return
        aged = replace(self._advised, stopping=frozenset(), old=True)
        if aged != self._advised:
            self._advised = aged
            self._beliefs.forget_desired()
            self._on_desired(aged)

    def _unreachable(self, clients: list[Client]) -> str:
        place, reason = (clients[0].place, clients[0].reason) if clients else (min(self._managers), "silent")
        return (
            f"no manager's agent is reachable ({place}: {reason or 'no answer yet'});"
            " run meshlb-agent on the managers and let the nodes reach that port over TCP"
        )

    def _hear(self, address: str, peer: Peer, message: Message) -> None:
        now = asyncio.get_running_loop().time()
        desired = self._beliefs.hear(address, peer, message, now)
        if desired is not None:
            self._know(desired)
            self._advised = desired
            if not desired.old:
                self._advised_until = now
            self._on_desired(desired)
        self._report(now)

    def _see(self, address: str, peer: Peer, text: str) -> None:
        """Nonsense is skipped: what is for people's eyes must not end a connection that the mesh lives by."""
        if not self._looking:
            return
        self._beliefs.check(address, peer)
        try:
            self._on_shown(address, shown.decode(text))
        except MessageError as error:
            self._garbage += 1
            log.debug("the agent at %s shows nonsense: %s", address, error)

    def _know(self, desired: Desired) -> None:
        """Who the Swarm's nodes are, as managers list them."""
        self._beliefs.nodes = desired.nodes
        self._server.admit(frozenset(node.id for node in desired.nodes) - {""})
        if set(self._addresses) - set(self._wanted):
            self._follow()

    def _next_version(self) -> Version:
        self._count += 1
        return Version(self._epoch, self._count)

    def _start_anew(self) -> None:
        """The node has left its Swarm, or is in another one: nobody who is connected has a right to be."""
        self._server.drop()
        self._server.admit(frozenset())
        self._beliefs.forget()
        self._advised = None
        self._anew = True
        self._changed.set()

    def _tell(self, part: str, text: str) -> None:
        before, self._troubles[part] = self._troubles[part], text
        if text and not before:
            log.warning("%s", text)
        elif before and not text:
            log.info("%s", _ENDS[part])


def _log_silence(before: Remote, now: Remote, followed: Collection[str]) -> None:
    left = before.suspected - now.suspected
    for level, addresses, text in (
        (logging.WARNING, now.suspected - before.suspected, "silent: no new connections while others are up"),
        (logging.WARNING, now.dead - before.dead, "still silent: their connections are reset"),
        (logging.INFO, left.intersection(followed), "answering again"),
        (logging.INFO, left.difference(followed), "not looked for any more: silent, and not in the Swarm"),
    ):
        if addresses:
            named = ", ".join(sorted(addresses)[:SHOWN])
            more = f" and {len(addresses) - SHOWN} more" if len(addresses) > SHOWN else ""
            log.log(level, "nodes %s%s are %s", named, more, text)
