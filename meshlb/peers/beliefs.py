"""Which of the things that other agents say are believed. Pure.

Of a node that was dialled at some address: what it says of tasks that run at that address by gossip's word,
and what services are meant to be if its certificate is a manager's. Nothing if that certificate is of another
node than the one that managers list at the address, or if it has said something newer before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping

from meshlb.model import BackendState, Desired, Node, Prepared
from meshlb.peers.identity import IdentityError, Peer
from meshlb.peers.message import DESIRED, TASKS, Ledger, Message, MessageError

_DEAD = BackendState.DOWN


class Beliefs:
    """What was heard of whom. `kept` is how many seconds the states of tasks outlive a connection.

    What nodes have prepared does not end with it: it stays in their tasks' namespaces. `prepared` was told
    to an earlier agent.
    """

    def __init__(self, kept: float, prepared: Mapping[str, Prepared] | None = None) -> None:
        self._kept = kept
        self._ledgers = {DESIRED: Ledger(), TASKS: Ledger()}
        self._tasks: dict[str, dict[str, BackendState]] = {}
        self._prepared = dict(prepared or {})
        self._data: dict[str, str] = {}  # addresses that nodes have for their data, by their own
        self._connected: dict[str, float] = {}  # when last
        self.addresses: Collection[str] | None = None  # of the nodes that there are; None: not known yet
        self.hosts: Mapping[str, str] = {}  # the address of the node that runs a task
        self.nodes: tuple[Node, ...] = ()  # as managers list them
        self.advisers: set[str] = set()  # of managers: those whose last word of services was not old
        self.heard = self.stale = self.foreign = 0

    def hear(self, address: str, peer: Peer, message: Message, now: float) -> Desired | None:
        """Take a message of the node at `address`; what services are meant to be, if it has told that.

        IdentityError or MessageError when the connection to whoever says this should end.
        """
        self.check(address, peer)
        if message.desired is not None and not peer.manager:
            raise MessageError("it tells what services are meant to be, and is not a manager")
        self.connected(address, now)
        if not peer.manager and address in self.advisers:
            self.advisers.discard(address)
            self._ledgers[DESIRED] = Ledger()  # what it told is news when it tells it as a manager again
        if not self._ledgers[message.part].is_news((peer.node_id, address), message.version):
            self.stale += 1
            return None
        if message.desired is not None and not self._is_needed(address, message.desired, now):
            self.stale += 1
            return None
        self.heard += 1
        if message.data is not None:
            self._data[address] = message.data
        if message.tasks is not None:
            self._tasks[address] = self._buried(address) | self._own(address, message.tasks)
            if message.prepared is not None:
                self._prepared[address] = message.prepared
        return message.desired

    def connected(self, address: str, now: float) -> None:
        """There is a connection to the node at `address`."""
        self._connected[address] = now

    def tasks(self, now: float) -> dict[str, Mapping[str, BackendState]]:
        """The states of tasks, by the addresses of their nodes. They end some time after the connection."""
        for address in [a for a, last in self._connected.items() if now - last > self._kept]:
            del self._connected[address]
        return {address: told for address, told in self._tasks.items() if told and address in self._connected}

    def prepared(self) -> dict[str, Prepared]:
        """What nodes have prepared, by their addresses. Only a task's own node is asked."""
        return {
            address: told
            for address, told in self._prepared.items()
            if told != Prepared() and (self.addresses is None or address in self.addresses)
        }

    def paths(self) -> dict[str, str]:
        """Nodes' addresses by those that they have for their data. Nobody is believed about another's."""
        followed = self._data.keys() if self.addresses is None else frozenset(self.addresses)
        told = {at: data for at, data in self._data.items() if data and at in followed}
        if not told:
            return {}
        known = {*told.keys(), *(self.addresses or ()), *(node.address for node in self.nodes)}
        times = Counter(told.values())
        return {data: at for at, data in told.items() if times[data] == 1 and data not in known}

    def forget(self) -> None:
        """All of it: the node is in another Swarm."""
        self._ledgers[TASKS] = Ledger()
        self.forget_desired()
        self._tasks.clear()
        self._prepared.clear()
        self._data.clear()
        self._connected.clear()
        self.nodes = ()

    def forget_desired(self) -> None:
        """What managers have told: the same is news when they tell it again."""
        self.advisers.clear()
        self._ledgers[DESIRED] = Ledger()

    def check(self, address: str, peer: Peer) -> None:
        """IdentityError when managers list another node at this address."""
        listed = {node.id for node in self.nodes if node.address == address}
        if listed and peer.node_id not in listed:
            raise IdentityError(f"the node {peer.node_id} is not the one that managers list at {address}")

    def _is_needed(self, address: str, desired: Desired, now: float) -> bool:
        """What is old is, while nobody is there who has told what is not."""
        if not desired.old:
            self.advisers.add(address)
            return True
        self.advisers.discard(address)
        return not any(now - self._connected.get(one, -math.inf) <= self._kept for one in self.advisers)

    def _buried(self, address: str) -> dict[str, BackendState]:
        """Tasks that were told to be dead, for as long as gossip shows them here: the node's own may not."""
        before = self._tasks.get(address, {})
        return {task: state for task, state in before.items() if state is _DEAD and task in self.hosts}

    def _own(self, address: str, told: Mapping[str, BackendState]) -> dict[str, BackendState]:
        """Without the tasks of which gossip says that another node runs them."""
        here = {address, *(data for data, at in self.paths().items() if at == address)}
        own = {task: state for task, state in told.items() if self.hosts.get(task, address) in here}
        self.foreign += len(told) - len(own)
        return own
