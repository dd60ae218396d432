"""The Swarm as a source of snapshots: follows this node's Docker Engine, through its absences too.

    connecting ──► following ──(fails, hangs, garbage)──► lost ──(backoff)──► connecting
                       └──(no swarm, locked, no ingress network)──► waiting ──(1 s)──► connecting

Whatever the engine does, the last snapshot stays; only an engine that says "this node is in no swarm"
empties it. The blocking work is done by daemon threads, so that nothing the engine does can hold up
the event loop or the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from meshlb.errors import EngineError
from meshlb.model import ChannelStatus, Desired, Remote, Snapshot, SourceStatus, Standing
from meshlb.swarm import lists as docker_lists
from meshlb.swarm import sdk as docker_engine
from meshlb.swarm.follow import Doubt, Known, NotInSwarm, NotReady, Session
from meshlb.swarm.remote import lay_over

NAMESPACE = Path("/var/run/docker/netns/ingress_sbox")  # a host on the ingress network, kept by dockerd
BACKOFF = (0.25, 5.0)  # seconds before the first and the last of the attempts to connect again
STABLE = 5.0  # seconds that a session must last for the next backoff to begin anew
RECHECK = 1.0  # seconds between looks at an engine that answers but has nothing to follow
DOUBT = 0.5  # seconds until a second connection is asked whether the first told the truth
LEAVE = 1.0  # seconds that the end of `snapshots` waits for its thread

log = logging.getLogger(__name__)


class SwarmSource:
    """Snapshots of the Swarm as this node's engine knows it. `base_url` None: see `docker_engine`."""

    def __init__(
        self,
        base_url: str | None = None,
        poll_interval: float = 0.25,
        namespace: Path = NAMESPACE,
    ) -> None:
        self._base_url, self._interval, self._namespace = base_url, poll_interval, namespace
        self._follower: _Follower | None = None
        self._advice: Desired | None = None
        self._remote = Remote()
        self._news = asyncio.Event()  # a snapshot from the engine, or something of other nodes
        self._word = asyncio.Event()  # something was learnt
        self.patience = 0.0  # seconds that the first snapshot waits for that
        self.on_standing: Callable[[Standing], None] = lambda standing: None  # called on the event loop
        self.recall: Callable[[str], Desired | None] = lambda root: None  # what was last advised, from disk
        self.channel: Callable[[], ChannelStatus | None] = lambda: None

    def advise(self, desired: Desired) -> None:
        """Take what a manager's agent knows. It counts while this node is no manager itself."""
        self._advice = desired
        if self._follower is not None:
            self._follower.advise(desired)

    def learn(self, remote: Remote) -> None:
        """Take what is known of other nodes; on the event loop. It does not wait for the engine."""
        if self._follower is not None and remote.paths != self._remote.paths:
            self._follower.name(remote.paths)
        self._remote = remote
        self._word.set()
        self._news.set()

    async def reload(self) -> None:
        """Look again at everything, now."""
        if self._follower is not None:
            self._follower.refresh()

    def status(self) -> SourceStatus:
        """What the source says of itself; callable from any thread, at any time."""
        if self._follower is None:
            return SourceStatus("swarm", connected=False, problem="not started yet")
        return replace(self._follower.status(), channel=self.channel())

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """The first snapshot as soon as one is known, then every change; a slow reader gets the newest."""
        loop = asyncio.get_running_loop()
        news, done = self._news, asyncio.Event()
        newest: list[Snapshot] = []

        def publish(snapshot: Snapshot) -> None:
            newest[:] = [snapshot]
            _tell(loop, news)

        told = Standing()

        def stand(standing: Standing) -> None:
            nonlocal told
            told = standing
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self.on_standing, standing)

        def fall_behind() -> None:
            if told.desired is not None and not told.desired.old:
                stand(replace(told, desired=replace(told.desired, old=True)))

        def session(known: Known, send: Callable[[Snapshot], None]) -> Session:
            engine = docker_engine.find(self._base_url)
            return Session(
                engine,
                known,
                send,
                stand,
                self.recall,
                namespace=self._namespace,
                interval=self._interval,
            )

        follower = _Follower(session, publish, fall_behind, lambda: _tell(loop, done))
        if self._advice is not None:
            follower.advise(self._advice)
        follower.name(self._remote.paths)
        self._follower = follower
        follower.start()
        last: Snapshot | None = None
        try:
            while True:
                await news.wait()
                if newest and last is None:
                    await self._first_word()
                news.clear()
                if newest and (now := lay_over(newest[0], self._remote)) != last:
                    last = now
                    yield last
        finally:
            follower.stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), LEAVE)

    async def _first_word(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.patience):
                await self._word.wait()


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(event.set)


class _Follower:
    """The thread that keeps a session with the engine going, and remembers how it stands."""

    def __init__(
        self,
        start: Callable[[Known, Callable[[Snapshot], None]], Session],
        publish: Callable[[Snapshot], None],
        fall_behind: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self._start, self._publish, self._ended = start, publish, ended
        self._fall_behind = fall_behind
        self._known = Known()
        self._stop = threading.Event()
        self._session: Session | None = None
        self._outage: type[EngineError] | None = None  # the kind of trouble that was logged
        self._problem = "connecting to the Docker Engine"
        self._connected = False
        self._failures = 0
        self._published = False

    def start(self) -> None:
        """Begin to follow."""
        threading.Thread(target=self._run, name="meshlb-engine", daemon=True).start()

    def stop(self) -> None:
        """End soon, whatever the engine does."""
        self._stop.set()
        session = self._session
        if session is not None:
            session.end()

    def refresh(self) -> None:
        """Look again at everything."""
        session = self._session
        if session is not None:
            session.refresh()

    def advise(self, desired: Desired) -> None:
        """Hand over what a manager's agent knows."""
        session = self._session
        if session is not None:
            session.advise(desired)
        else:
            self._known.advice = docker_lists.from_desired(desired)

    def name(self, paths: Mapping[str, str]) -> None:
        """Take nodes' addresses by those that they have for their data."""
        self._known.paths = paths
        session = self._session
        if session is not None:
            session.look()

    def status(self) -> SourceStatus:
        """How it stands. Reads single attributes, each replaced as a whole by the thread."""
        session, membership = self._session, self._known.membership
        problem = self._problem or (session.problem if session else "")
        node = membership.node.id if membership else ""
        cluster = membership.cluster if membership else ""
        return SourceStatus("swarm", self._connected, problem, node, cluster)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                delay = self._follow()
                if time.monotonic() - began > STABLE:
                    self._failures = 0
                self._stop.wait(delay)
        finally:
            self._ended()

    def _follow(self) -> float:
        """One session from its beginning to its end; the seconds to wait before the next."""
        try:
            self._hold_session()
        except Doubt:
            return DOUBT
        except (NotInSwarm, NotReady) as state:
            return self._wait_for(state)
        except EngineError as error:
            return self._lost(error)
        except Exception:
            if self._outage is None:
                log.exception("following the Docker Engine failed in an unforeseen way; starting again")
            return self._lost(EngineError("following the Docker Engine failed; the agent's log says why"))
        return 0.0

    def _hold_session(self) -> None:
        session = self._session = self._start(self._known, self._send)
        try:
            if not self._stop.is_set():
                session.run(self._works)
        finally:
            self._session = None
            session.close()

    def _works(self) -> None:
        if self._outage is not None:
            log.info("following the Docker Engine again")
        self._outage, self._problem, self._connected = None, "", True

    def _wait_for(self, state: EngineError) -> float:
        """The engine answers, but there is nothing to follow."""
        self._trouble(state, connected=True)
        if isinstance(state, NotInSwarm):
            self._known = Known(self._known.membership)
        if isinstance(state, NotInSwarm) or not self._published:
            self._send(Snapshot(pending=isinstance(state, NotReady)))
        return RECHECK

    def _lost(self, error: EngineError) -> float:
        self._trouble(error, connected=False)
        longest = min(BACKOFF[1], BACKOFF[0] * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads the agents' attempts, no secret

    def _trouble(self, error: EngineError, *, connected: bool) -> None:
        """Note the trouble; log it once, and once more if it becomes one of another kind."""
        if self._stop.is_set():
            return
        self._fall_behind()
        kind = NotReady if isinstance(error, NotReady) else NotInSwarm if connected else EngineError
        if self._outage is not kind:
            log.warning("%s%s", error, "" if connected else "; what was last known stays in service")
        self._outage, self._problem, self._connected = kind, str(error), connected

    def _send(self, snapshot: Snapshot) -> None:
        self._published = True
        self._publish(snapshot)
