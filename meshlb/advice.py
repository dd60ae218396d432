"""What is known of the Swarm beyond a node's own engine, between that, the channel and the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from meshlb.elsewhere import Elsewhere
from meshlb.model import ChannelStatus, Desired, Face, Prepared, Remote, Standing
from meshlb.overlay import Overlay
from meshlb.swarm.remembered import DESIRED, PREPARED, Memory
from meshlb.transparent.preparing import Preparing

FIRST = 2.0  # seconds that ports wait at most for what is to be prepared on this node

if TYPE_CHECKING:
    from meshlb.peers.channel import Peers
    from meshlb.peers.shown import Shown


class Source(Protocol):
    """What is needed of `meshlb.swarm.source.SwarmSource`."""

    on_standing: Callable[[Standing], None]
    recall: Callable[[str], Desired | None]
    channel: Callable[[], ChannelStatus | None]
    patience: float

    def advise(self, desired: Desired) -> None:
        """Take what a manager's agent knows."""

    def learn(self, remote: Remote) -> None:
        """Take what is known of other nodes."""


class Advice:
    """Tells the other agents what this node knows, and takes from them what they do.

    In `directory`, if there is one, it keeps what managers have told last. `host` is where this node's root
    directory is: an agent in a container has one of its own.
    """

    def __init__(
        self,
        source: Source,
        address: str,
        port: int,
        directory: Path | None = None,
        host: Path = Path("/"),
        *,
        overlay: Overlay | None = None,
        preparing: Preparing | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._source, self._address, self._port, self._host = source, address, port, host
        self._overlay, self._elsewhere = overlay, elsewhere or Elsewhere()
        self._preparing = preparing
        self._prepared: Prepared | None = None
        self._face = Face()
        self._remote = Remote()
        if preparing:
            preparing.told = self._take_prepared
            source.patience = FIRST
        self._memory = Memory(directory, self._cluster, DESIRED) if directory else None
        self._ways = Memory(directory, self._cluster, PREPARED) if directory else None
        self._recalled: Mapping[str, Prepared] = {}  # what other nodes have told an earlier agent
        self._advised: Desired | None = None  # by managers, last
        self._standing = Standing()
        self._changed = asyncio.Event()
        self._peers: Peers | None = None
        source.on_standing = self._take
        source.channel = self.status
        if self._memory:
            source.recall = self._recall

    async def prepare(self) -> None:
        """Keep this node's part of clients' own addresses until cancelled: it does not wait for others."""
        if self._preparing:
            await self._preparing.run()

    async def run(self) -> None:
        """Serve until cancelled."""
        root = await self._first_root()
        # Not before: its TLS and HTTP clients take a quarter of an agent's start, and ports come first.
        from meshlb.peers.channel import Peers  # noqa: PLC0415

        peers = self._peers = Peers(
            root,
            address=self._address,
            port=self._port,
            on_desired=self._hear,
            on_remote=self._learn,
            on_shown=self._see,
            on_watched=self._elsewhere.watch,
            prepared=self._recalled,
        )
        self._elsewhere.join(peers.look, peers.show)
        async with asyncio.TaskGroup() as group:
            group.create_task(peers.run())
            for memory in (self._memory, self._ways):
                if memory:
                    group.create_task(memory.run())
            try:
                while True:
                    self._pass_on(peers)
                    await self._next()
            finally:
                if self._overlay:
                    self._overlay.close()

    def forget(self) -> None:
        """Nobody is heard any more: no node is silent, no task about to end, what managers told is old."""
        if self._advised is not None:
            self._source.advise(replace(self._advised, stopping=frozenset(), old=True))
        self._learn(Remote(prepared=self._recalled, paths=self._remote.paths))
        if self._overlay:
            self._overlay.close()  # `run` keeps it again

    def status(self) -> ChannelStatus:
        """What the channel says of itself."""
        peers = self._peers
        if peers is None:
            return ChannelStatus(problem="the Docker Engine has not told yet who this node is")
        counted, remote = peers.counters, peers.remote
        return ChannelStatus(
            len(peers.addresses),
            counted.peers,
            tuple(sorted(remote.suspected)),
            tuple(sorted(remote.dead)),
            counted.heard,
            counted.stale,
            counted.foreign + counted.refused + counted.garbage,
            peers.problem,
            peers.clocks,
            peers.addresses,
        )

    def _pass_on(self, peers: Peers) -> None:
        standing = self._standing
        self._keep_ways(peers.remote)
        peers.place(standing.hosts)
        peers.publish(standing.desired)
        peers.tell(standing.states, self._prepared, standing.paths.get(standing.address, ""))
        own = standing.address
        managers = [address for address in standing.managers if address != own]
        others = [address for address in standing.peers if address != own]
        # A manager misses no other: it knows by itself what they would tell.
        needed = managers if standing.desired is None else []
        peers.connect([*managers, *others], needed)
        if standing.desired is not None and self._memory:
            self._memory.keep(standing.desired)

    def _learn(self, remote: Remote) -> None:
        self._remote = remote
        self._source.learn(self._with_own(remote))
        self._keep_ways(remote)
        if self._ways and (remote.prepared or self._recalled):
            self._recalled = remote.prepared
            self._ways.keep(remote.prepared)

    def _see(self, address: str, told: Shown) -> None:
        self._elsewhere.take(address, told.kind, told.at, told.text)

    def _with_own(self, remote: Remote) -> Remote:
        """And what this node itself has prepared."""
        own = self._prepared or Prepared()
        if (own, self._face) == (Prepared(), Face()):
            return remote
        return replace(remote, prepared={**remote.prepared, self._standing.address: own}, face=self._face)

    def _take_prepared(self, prepared: Prepared, face: Face) -> None:
        self._prepared, self._face = prepared, face
        if self._peers is None:
            self._remote = Remote(prepared=self._recalled)
        self._source.learn(self._with_own(self._remote))
        self._changed.set()

    def _recall(self, root: str) -> Desired | None:
        """What others have told an earlier agent. In the thread of the source."""
        if self._ways and not self._recalled:
            self._recalled = self._ways.recall(root) or {}
        return self._memory.recall(root) if self._memory else None

    def _keep_ways(self, remote: Remote) -> None:
        """To the nodes that gossip has lost and whose kernels are not silent."""
        if self._overlay and self._standing.overlay:
            lost = self._standing.lost - remote.dead
            ways = frozenset(self._standing.paths.get(node, node) for node in lost)
            self._overlay.keep(self._standing.overlay, ways)

    def _hear(self, desired: Desired) -> None:
        self._advised = desired
        self._source.advise(desired)
        if self._standing.desired is None and self._memory:
            self._memory.keep(desired)

    def _cluster(self) -> str:
        identity = self._peers.identity if self._peers else None
        return identity.cluster if identity else ""

    def _take(self, standing: Standing) -> None:
        self._standing = standing
        if self._preparing and standing.wanted is not None:
            self._preparing.want(standing.wanted)
        else:
            self._source.learn(self._with_own(self._remote))  # it need not wait for more
        self._changed.set()

    async def _first_root(self) -> Path:
        while not self._standing.root:
            await self._next()
        return self._host / self._standing.root.lstrip("/")

    async def _next(self) -> None:
        await self._changed.wait()
        self._changed.clear()
