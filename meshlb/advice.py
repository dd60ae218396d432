"""What is known of the Swarm beyond a node's own engine, between that, the channel and the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from meshlb.elsewhere import Elsewhere
from meshlb.model import ChannelStatus, Desired, Prepared, Remote, Standing
from meshlb.overlay import Overlay
from meshlb.swarm.remembered import Memory
from meshlb.transparent.preparing import Preparing

if TYPE_CHECKING:
    from meshlb.peers.channel import Peers
    from meshlb.peers.shown import Shown


class Source(Protocol):
    """What is needed of `meshlb.swarm.source.SwarmSource`."""

    on_standing: Callable[[Standing], None]
    recall: Callable[[str], Desired | None]
    channel: Callable[[], ChannelStatus | None]

    def advise(self, desired: Desired) -> None:
        """Take what a manager's agent knows."""

    def learn(self, remote: Remote) -> None:
        """Take what is known of other nodes."""


class Advice:
    """Tells the other agents what this node knows, and takes from them what they do.

    In `directory`, if there is one, it keeps what managers have told last.
    """

    def __init__(
        self,
        source: Source,
        address: str,
        port: int,
        directory: Path | None = None,
        *,
        overlay: Overlay | None = None,
        preparing: Preparing | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._source, self._address, self._port = source, address, port
        self._overlay, self._elsewhere = overlay, elsewhere or Elsewhere()
        self._preparing = preparing
        self._prepared, self._face = Prepared(), ""
        self._remote = Remote()
        if preparing:
            preparing.told = self._take_prepared
        self._memory = Memory(directory, self._cluster) if directory else None
        self._standing = Standing()
        self._changed = asyncio.Event()
        self._peers: Peers | None = None
        source.on_standing = self._take
        source.channel = self.status
        if self._memory:
            source.recall = self._memory.recall

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
        )
        self._elsewhere.join(peers.look, peers.show)
        async with asyncio.TaskGroup() as group:
            group.create_task(peers.run())
            if self._preparing:
                group.create_task(self._preparing.run())
            if self._memory:
                group.create_task(self._memory.run())
            try:
                while True:
                    self._pass_on(peers)
                    await self._next()
            finally:
                if self._overlay:
                    self._overlay.close()

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
        )

    def _pass_on(self, peers: Peers) -> None:
        standing = self._standing
        self._keep_ways(peers.remote)
        peers.place(standing.hosts)
        peers.publish(standing.desired)
        peers.tell(standing.states, self._prepared)
        if self._preparing:
            self._preparing.want(standing.wanted)
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

    def _see(self, address: str, told: Shown) -> None:
        self._elsewhere.take(address, told.kind, told.at, told.document)

    def _with_own(self, remote: Remote) -> Remote:
        """And what this node itself has prepared."""
        if not self._face and not self._prepared.tasks:
            return remote
        prepared = {**remote.prepared, self._standing.address: self._prepared}
        return replace(remote, prepared=prepared, face=self._face)

    def _take_prepared(self, prepared: Prepared, face: str) -> None:
        self._prepared, self._face = prepared, face
        self._source.learn(self._with_own(self._remote))
        self._changed.set()

    def _keep_ways(self, remote: Remote) -> None:
        """To the nodes that gossip has lost and whose kernels are not silent."""
        if self._overlay and self._standing.overlay:
            self._overlay.keep(self._standing.overlay, self._standing.lost - remote.dead)

    def _hear(self, desired: Desired) -> None:
        self._source.advise(desired)
        if self._standing.desired is None and self._memory:
            self._memory.keep(desired)

    def _cluster(self) -> str:
        identity = self._peers.identity if self._peers else None
        return identity.cluster if identity else ""

    def _take(self, standing: Standing) -> None:
        self._standing = standing
        self._changed.set()

    async def _first_root(self) -> Path:
        while not self._standing.root:
            await self._next()
        return Path(self._standing.root)

    async def _next(self) -> None:
        await self._changed.wait()
        self._changed.clear()
