"""Keeps the plane serving the newest snapshot, whatever fails on the way."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, Self, TypeVar

import meshlb
from meshlb import changes, timeline
from meshlb.counts import Statistics
from meshlb.errors import MeshError
from meshlb.model import Counters, Port, PortState, PortStatus, Snapshot, SourceStatus, Status
from meshlb.orderbook import OrderBook
from meshlb.orders import Orders
from meshlb.ports.inherited import Named
from meshlb.records import Ended
from meshlb.table import Builder, Table
from meshlb.transparent.hidden import Hidden

AFTER_CHANGE = (1.0, 3.0, 10.0)  # seconds after a change at which Docker may have planted its own rules
CALM = 30.0
WATCH = 2.0  # seconds between two looks whether clients wait
DISK = 5.0  # seconds that whoever gives an order waits for it to be written
LOGGED = 0.25  # seconds between two looks at connections that have ended, while a port keeps an access log
UNLOGGED = 10.0  # while none does: those of before may still end
# A port that another process held is served this soon after it is free: soon after a change, when somebody
# watches, and later less often, for a look costs some 20 ms of a core.
FAILED, STILL_FAILED = 2.0, 10.0

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Plane(Protocol):
    """What is needed of `meshlb.plane.Plane`. Its calls block, and may not overlap."""

    def start(self) -> None:
        """Start the workers."""

    def apply(self, table: Table) -> tuple[PortStatus, ...]:
        """Serve this table from now on."""

    def recheck(self) -> tuple[PortStatus, ...]:
        """Try failed ports again, and whether Docker has taken one over."""

    def problem(self) -> str:
        """What keeps clients from being served, in a sentence; empty when nothing does."""

    def counters(self) -> Counters:
        """Connections and bytes since the start."""

    def statistics(self) -> Statistics:
        """What has been counted of every port that is served, and of its backends."""

    def kept(self) -> tuple[Named, ...]:
        """The listening sockets, for the agent that takes over."""

    def release(self) -> None:
        """Do not touch the listening sockets any more, but have them."""

    def resume(self) -> None:
        """Serve on them again."""

    def leave(self) -> None:
        """The listening sockets are another agent's; established connections go on."""

    def ended(self) -> tuple[list[Ended], int]:
        """Connections that have ended since the last call, for the access log; and how many are missing."""

    def close_listeners(self) -> None:
        """Take no new connections; established ones go on."""

    def stop(self) -> None:
        """End the workers and what is still open."""


WriteEnded = Callable[[Iterable[Ended], int, Mapping[str, str]], int]


def _unwritten(_ended: Iterable[Ended], _lost: int, _nodes: Mapping[str, str]) -> int:
    """Where there is no access log."""
    return 0


def pause(since_change: float, failed: bool, failures: int) -> float:
    """Seconds until the plane is looked at again.

    `failed` is whether a port is not served, `failures` how often in a row the plane itself failed.
    """
    if failures:
        return min(CALM, FAILED**failures)
    next_check = next((at - since_change for at in AFTER_CHANGE if at > since_change), CALM)
    return min(next_check, max(FAILED, since_change / 10), STILL_FAILED) if failed else next_check


class Serving:
    """Owner of a plane: brings it every newest snapshot, and knows how that went.

    As a context manager it starts the plane and stops it. A failure is told in `problems` and tried again;
    what was served before goes on being served.
    """

    def __init__(
        self, plane: Plane, book: OrderBook | None = None, write_ended: WriteEnded = _unwritten
    ) -> None:
        self.snapshot = Snapshot()
        self.table = Table()
        self.ports: tuple[PortStatus, ...] = ()
        self.problems: tuple[str, ...] = ()
        self.draining = False
        self.offered = asyncio.Event()  # set once it is known what to serve
        self.first = asyncio.Event()  # set once a snapshot is served
        self.still = asyncio.Lock()  # whoever holds it keeps the plane as it is
        self.left = False  # another agent serves the ports
        self.timeline = timeline.Timeline()  # what happened, for the page
        self.hidden: dict[Port, str] = {}  # what keeps ports from showing clients' own addresses
        self._hidden = Hidden()
        self._plane, self._builder = plane, Builder()
        self.orders = Orders()
        self._book = book or OrderBook()
        self._keeping = asyncio.Lock()
        self._applied_orders = asyncio.Event()
        self._newest: Snapshot | None = None
        self._applied: Snapshot | None = None  # `snapshot`, before the orders were laid over it
        self._wake = asyncio.Event()
        self._write_ended = write_ended
        self._logging = asyncio.Event()  # set while a port keeps an access log
        self._log_keeper: asyncio.Task[None] | None = None
        self._faults: dict[str, str] = {}  # by the part of the agent that has it
        self._failures = 0
        self._changed_at = 0.0
        self._counters = Counters()
        self._unlogged = 0  # connections that the access log lacks
        self._tables = 0  # that have been served
        self._last_table = 0.0  # seconds since 1970: when the last one came
        # One thread of our own makes calls follow each other: asyncio.to_thread would leave the call of a
        # cancelled task running beside the next.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plane")

    async def __aenter__(self) -> Self:
        self.orders.adopt(await asyncio.to_thread(self._book.recall), time.monotonic())
        await self._call(self._plane.start)
        self._log_keeper = asyncio.create_task(self._keep_log())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._log_keeper:
            self._log_keeper.cancel()
            await asyncio.wait([self._log_keeper])
        try:
            await self._call(self._plane.stop)
            await self._log_ended()
        finally:
            self._thread.shutdown(wait=False)

    def offer(self, snapshot: Snapshot) -> None:
        """Serve this snapshot; one that was offered before and is not served yet is forgotten."""
        self._newest = snapshot
        if not snapshot.pending:
            self.offered.set()
        self._wake.set()

    def fault(self, part: str, sentence: str) -> None:
        """State, or with an empty sentence take back, what is wrong with a part of the agent."""
        self._faults.pop(part, None)
        if sentence:
            self._faults[part] = sentence
        problems = (*self.table.problems, *self._faults.values())
        _tell(changes.of_problems(self.problems, problems))
        self.timeline.tell(timeline.of_problems(self.problems, problems))
        self.problems = problems

    async def run(self) -> None:
        """Serve what is offered and look after the ports; never ends."""
        while True:
            await self._rest()
            try:
                async with self.still:
                    await self._look()
            except MeshError as error:
                self._failed(str(error))
            except Exception as error:
                log.exception("the plane did not do as told; what it served before goes on")
                self._failed(f"a bug in meshlb, see the log: {type(error).__name__}: {error}")
            else:
                self._failures = 0
                self.fault("plane", "")

    async def watch(self) -> None:
        """Tell what keeps clients waiting, or their addresses hidden, and take it back; never ends."""
        while True:
            await asyncio.sleep(WATCH)
            self._look_at_addresses()
            try:
                self.fault("clients", await self._call(self._plane.problem))
            except Exception:
                log.exception("the plane does not say how it is")

    def _look_at_addresses(self) -> None:
        before = self.hidden
        self.hidden = {} if self.left else self._hidden.look(self.table, self.snapshot, time.monotonic())
        services = {entry.port: entry.service for entry in self.table.entries}
        for port in before.keys() | self.hidden.keys():
            if before.get(port) != self.hidden.get(port):
                sentence = f"service {services[port]}: {self.hidden[port]}" if port in self.hidden else ""
                self.fault(f"addresses at {port}", sentence)

    def _told(self, status: PortStatus) -> PortStatus:
        """With what else is to be said of a port that is served."""
        hidden = self.hidden.get(status.port)
        reasons = [reason for reason in (status.reason, hidden) if reason]
        return replace(status, reason="; ".join(reasons)) if hidden else status

    async def keep(self) -> None:
        """Have the orders on disk follow those that hold; never ends. Tables never wait for a disk."""
        while True:
            await self._applied_orders.wait()
            self._applied_orders.clear()
            await self._keep_orders()

    async def _keep_log(self) -> None:
        while True:
            await _wait(self._logging, UNLOGGED)
            try:
                await self._log_ended()
            except Exception:
                log.exception("the access log cannot be written")
            await asyncio.sleep(LOGGED)

    async def _log_ended(self) -> None:
        """In a thread: who reads our log slowly holds up nothing else. What finds no place is lost."""
        ended, lost = await self._call(self._plane.ended)
        self._unlogged += lost
        if ended or lost:
            nodes = {node.address: node.name for node in self.snapshot.nodes}
            unread = await asyncio.to_thread(self._write_ended, ended, lost, nodes)
            self._unlogged += unread

    async def order(self, verb: str, backend: str, force: bool) -> str:
        """Drain, pause or undrain a backend. Gives a sentence once that is so; MeshError refuses."""
        async with self.still:
            if self.left or self._newest is None:
                raise MeshError("this agent serves nothing at this moment: ask again")
            sentence = self.orders.give(verb, backend, force, self.table, time.monotonic())
            self._applied = None  # should the plane fail now, it is tried again
            self._wake.set()
            await self._apply(self._newest)
        log.info("%s", sentence, extra={"fields": {"order": verb}})
        problem = await self._keep_orders()
        return f"{sentence}; a crash of the agent would end that: {problem}" if problem else sentence

    def ordered(self) -> dict[str, str]:
        """What has been ordered, for the agent that takes over."""
        return self.orders.told()

    async def kept(self) -> tuple[Named, ...]:
        """The listening sockets, for the agent that takes over."""
        return await self._call(self._plane.kept)

    async def release(self) -> None:
        """Do not touch the listening sockets any more, but have them."""
        await self._call(self._plane.release)

    async def resume(self) -> None:
        """After `release`: serve on them again."""
        await self._call(self._plane.resume)

    async def leave(self) -> None:
        """After `release`: they are another agent's. Established connections go on, and follow the table."""
        await self._call(self._plane.leave)
        self.left, self.ports = True, ()

    async def status(self, source: SourceStatus) -> Status:
        """The agent's status, with what its source says of itself."""
        counters = await self.counters()
        return Status(
            version=meshlb.__version__,
            source=source,
            snapshot=self.snapshot,
            ports=tuple(map(self._told, self.ports)),
            counters=counters,
            problems=self.problems,
            draining=self.draining,
            table=self._tables,
            table_changed=self._last_table,
            unlogged=self._unlogged,
        )

    async def statistics(self) -> Statistics:
        """What has been counted of each port and backend. TimeoutError when the plane is busy for long."""
        async with asyncio.timeout(5):
            return await self._call(self._plane.statistics)

    async def counters(self) -> Counters:
        """The plane's counters; the last ones known when it cannot give them within a second."""
        try:
            async with asyncio.timeout(1):
                self._counters = await self._call(self._plane.counters)
        except TimeoutError:
            log.warning("the plane has been busy for a second")
        except Exception:
            log.exception("the plane's counters cannot be read")
        return self._counters

    async def responds(self) -> bool:
        """Whether the plane answers within seconds."""
        try:
            await self.statistics()
        except TimeoutError:
            return False
        except Exception:
            log.exception("the plane does not say what it has counted")
        return True

    async def drain(self, seconds: float, enough: asyncio.Event) -> int:
        """Take no new connections, then wait for the open ones: at most `seconds`, or until `enough`.

        Gives how many are open still.
        """
        if not self.left:
            await self._call(self._plane.close_listeners)
        self.draining = True
        end = asyncio.get_running_loop().time() + seconds
        left = (await self.counters()).open
        within = "" if math.isinf(seconds) else f" for at most {seconds:g} seconds"
        log.info("draining%s: %s open", within, connections(left))
        pause = 0.1
        while left and not enough.is_set() and asyncio.get_running_loop().time() < end:
            await _wait(enough, pause)
            pause = min(pause * 1.1, 1.0)
            left = (await self.counters()).open
        return left

    async def _rest(self) -> None:
        if self.first.is_set() or self._failures:
            age = asyncio.get_running_loop().time() - self._changed_at
            failed = any(status.state is PortState.FAILED for status in self.ports)
            await _wait(self._wake, pause(age, failed, self._failures))
        else:
            await self._wake.wait()
        self._wake.clear()

    async def _look(self) -> None:
        if self._newest is not None and self._newest is not self._applied:
            await self._apply(self._newest)
        else:
            await self._recheck()

    async def _apply(self, snapshot: Snapshot) -> None:
        ordered = self.orders.lay_over(snapshot, time.monotonic())
        table = await self._call(lambda: self._builder.build(ordered))
        ports = await self._call(lambda: self._plane.apply(table))
        _tell(changes.of_backends(self.table, table))
        self.timeline.tell(timeline.of_tables(self.table, table))
        self.snapshot, self.table, self._applied = ordered, table, snapshot
        self._now_served(ports)
        if any(entry.policy.access_log for entry in table.entries):
            self._logging.set()
        else:
            self._logging.clear()
        self._changed_at = asyncio.get_running_loop().time()
        self._tables, self._last_table = self._tables + 1, round(time.time(), 3)
        self.first.set()
        self._applied_orders.set()

    async def _keep_orders(self) -> str:
        """Have those that hold now outlive this process. Gives what is against it, in words."""
        if self.left:  # the file is the next agent's, who may have been given others
            return ""
        try:
            async with asyncio.timeout(DISK), self._keeping:
                return await asyncio.to_thread(self._book.keep, self.orders.told())
        except TimeoutError:
            return "the disk does not answer"

    async def _recheck(self) -> None:
        self._now_served(await self._call(self._plane.recheck))

    def _now_served(self, ports: tuple[PortStatus, ...]) -> None:
        if self.left:
            return
        _tell(changes.of_ports(self.ports, ports, self.table))
        self.timeline.tell(timeline.of_ports(self.ports, ports))
        self.ports = ports

    def _failed(self, sentence: str) -> None:
        self._failures = min(self._failures + 1, 10)
        self.fault("plane", sentence)

    async def _call(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def connections(count: int) -> str:
    """`1 connection is`, `2 connections are`."""
    return "1 connection is" if count == 1 else f"{count} connections are"


def _tell(news: Iterable[changes.Change]) -> None:
    for change in news:
        log.log(change.level, "%s", change.text, extra={"fields": change.fields})
