"""What serves a table: the owner of the worker threads, of the listeners and of everything they count."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from meshlb._fastpath import Forwarder, enter_namespace
from meshlb.counts import Statistics, totals
from meshlb.descriptors import OUT, RAISE, Descriptors, out
from meshlb.errors import PortError
from meshlb.kernel.namespace import Namespace
from meshlb.model import (
    BackendState,
    Counters,
    Port,
    PortState,
    PortStatus,
    Protocol,
    packed,
)
from meshlb.policy import TRANSPARENT
from meshlb.records import Ended, Subjects
from meshlb.route import Members, route
from meshlb.table import Backend, Entry, Table

if TYPE_CHECKING:
    import socket

    from meshlb.ports.inherited import Named
    from meshlb.ports.listen import Opening

__all__ = ["Listeners", "Plane", "enter_namespace"]

_Key = tuple[str, str, int]
_Dropped = tuple[str, float | None]  # the task, and for how many seconds its connections may go on
_ENDING = (BackendState.DRAINING, BackendState.DRAINED)  # `drain` says for how long connections go on
_NEVER = (BackendState.DRAINED, BackendState.PAUSED, BackendState.DOWN)  # takes none, even when nobody is up
_TOLD = 3000  # milliseconds that clients wait to be accepted before that is a problem
_RELEASING = 5.0  # seconds that workers get to let go of all listeners; one turn of theirs is enough
_KEPT = 100_000  # connections that have ended and nobody has asked for
_CLOSING = 0.2  # seconds that a port's listeners get to take what has completed its handshake


class Listeners(Interface):
    """Opens the sockets of published ports; `meshlb.ports.listen.Listeners` is the real one."""

    def open(self, port: Port, count: int, listen: tuple[str, ...] = ()) -> Opening:
        """`count` listening sockets for each address; PortError says why not."""

    def places(self, port: Port, listen: tuple[str, ...] = ()) -> int:
        """How many addresses a port would have sockets for."""

    def more(self, port: Port, count: int) -> tuple[socket.socket, ...]:
        """As many for each address of the port that has come to this node since."""

    def close(self, port: Port) -> None:
        """The port is not served any more; its sockets are the plane's to close."""

    def close_all(self) -> None:
        """No port is served any more."""

    def again(self, port: Port) -> tuple[socket.socket, ...]:
        """More descriptors of an open port's sockets."""

    def kept(self) -> tuple[Named, ...]:
        """The sockets of all open ports, which stay theirs to close."""

    def leave(self) -> None:
        """Another process serves the ports, on the same sockets."""

    def recheck(self) -> dict[Port, PortState]:
        """How ports are served now, where that may change behind our back."""

    def reason(self, port: Port) -> str:
        """Why the port is served as it is."""


@dataclass(slots=True)
class _Served:
    """A port of the table in use, with the ids that the workers know it and its backends by."""

    entry: Entry
    port_id: int
    taken: Entry | None = None  # the entry of which the workers know all; not one that was taken by half
    backends: dict[_Key, tuple[Backend, int]] = field(default_factory=dict)
    state: PortState = PortState.FAILED
    reason: str = ""
    listen: tuple[str, ...] = ()  # the networks that its listeners are for
    sockets: int = 0  # listening
    first: int = 0  # of the workers, that has the first of them
    left_out: bool = False  # no descriptor is left for it

    @property
    def listening(self) -> bool:
        """Whether it has listeners."""
        return self.state is not PortState.FAILED

    @property
    def status(self) -> PortStatus:
        """How it is served, for others."""
        return PortStatus(self.entry.port, self.entry.service, self.state, self.reason)


class Plane:
    """Serves one table at a time. Its methods block for milliseconds; call them from one thread at a time."""

    def __init__(self, workers: int = 0, *, listeners: Listeners) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self._listeners = listeners
        self._forwarder = Forwarder(self.workers)
        self._descriptors = Descriptors(_file_limit(), self.workers)
        self._next_worker = 0  # that gets a port's first socket: where a port has few, ports spread over all
        self._namespace = Namespace(enter_namespace)
        self._table = Table()
        self._served: dict[Port, _Served] = {}  # by `_door`, as everything that is done at a port
        self._leaving: set[int] = set()  # ids of ports whose last connections are still open
        self._closing = False
        self._draining: dict[int, float] = {}  # seconds that connections of a backend may live, by its id
        self._past = Counters()
        self._subjects = Subjects()
        self._ended: list[Ended] = []  # for the access log, of numbers that may mean others by now
        self._lost = 0  # records so far that could not be kept
        self._threads: list[threading.Thread] = []
        self._share_out()

    def start(self) -> None:
        """Starts the workers."""
        for index in range(self.workers):
            # Python starts the threads, so that they have a name in `top -H` and show up in coverage.
            thread = threading.Thread(target=self._forwarder.run, args=(index,), name=f"meshlb-{index}")
            thread.start()
            self._threads.append(thread)

    def apply(self, table: Table) -> tuple[PortStatus, ...]:
        """Serves `table` from now on. Connections of ports and backends that are gone live until they end."""
        self._table = table
        self._namespace.use(table.namespace)
        namespace_fd = self._namespace.duplicate()  # first: what fails for want of them changes nothing
        wanted = {_door(entry.port): entry for entry in table.entries}
        with _closed_on_failure(namespace_fd):
            dropped = self._update(wanted)
            gone = [self._served.pop(port) for port in list(self._served) if port not in wanted]
            for served in gone:
                dropped |= _dropped(served.backends.values(), served.entry)
            self._close(gone)
            self._end(dropped, table)
            self._publish(namespace_fd)
        self._retire(gone, dropped)
        self._close_moved()
        self._open_closed()
        self._share_out()
        self._reap()
        return self._statuses()

    def recheck(self) -> tuple[PortStatus, ...]:
        """Tries failed ports again and looks whether others are served in another way now."""
        before = self._namespace.id
        self._namespace.use(self._table.namespace)
        if self._namespace.id != before:
            with _closed_on_failure(self._namespace.duplicate()) as namespace_fd:
                self._publish(namespace_fd)
        self._open_closed()
        for port, of in self._served.items():
            if of.listening and of.listen:
                self._add(of, self._listeners.more(port, self._descriptors.each(1, 1)))
        for port, state in self._listeners.recheck().items():
            served = self._served.get(port)
            if served and served.listening:
                self._change(port, served, state)
        self._share_out()
        self._reap()
        return self._statuses()

    def counters(self) -> Counters:
        """Totals of all ports since the start, those that have gone included."""
        ports = [served.port_id for served in self._served.values()] + list(self._leaving)
        return _total(self._past, totals(self._forwarder.port_rows(ports)))

    def problem(self) -> str:
        """What keeps clients from being served that a user can mend; empty when nothing does."""
        return "; ".join(filter(None, (self._left_out(), self._shortage())))

    def statistics(self) -> Statistics:
        """What has been counted of every port that is served, and of its backends."""
        served = self._served.values()
        return Statistics(
            tuple(each.entry.port for each in served),
            self._forwarder.port_rows([each.port_id for each in served]),
            tuple((each.entry.port, backend) for each in served for backend, _ in each.backends.values()),
            self._forwarder.backend_rows([number for each in served for number in _numbers(each)]),
            self._forwarder.worker_rows(),
        )

    def ended(self) -> tuple[list[Ended], int]:
        """Connections that have ended since the last call, for the access log; and how many are missing."""
        self._take_records()
        found, self._ended = self._ended, []
        before, self._lost = self._lost, self._forwarder.records_lost()
        return found, self._lost - before

    def close_listeners(self) -> None:
        """Accepts what has completed its handshake, then nothing more; established connections go on."""
        self._closing = True
        self._forget_listeners()
        self._forwarder.close_listeners()

    def kept(self) -> tuple[Named, ...]:
        """The sockets of all ports, for the agent that takes over. They stay ours to close."""
        return self._listeners.kept()

    def release(self) -> None:
        """Leaves the listeners to the agent that has taken over; what waits in them is not touched."""
        self._closing = True
        self._forwarder.release_listeners()
        self._await_closed([served.port_id for served in self._served.values()], _RELEASING)

    def resume(self) -> None:
        """After `release`: that agent has failed, and this one goes on."""
        self._closing = False
        for port, served in self._served.items():
            if served.listening:
                self._resume(port, served)

    def _resume(self, port: Port, served: _Served) -> None:
        try:
            self._listen(served, self._listeners.again(port))
        except OSError as error:  # the next look opens it anew
            self._close([served])
            served.state, served.reason = PortState.FAILED, f"port {port}: {error.strerror}"

    def leave(self) -> None:
        """After `release`: nothing of the listeners is ours any more. Connections go on."""
        self._listeners.leave()
        for port, served in self._served.items():
            served.state, served.reason = PortState.FAILED, f"port {port}: another agent has taken over"
            self._forget_sockets(served)
        self._share_out()

    def stop(self) -> None:
        """Ends the workers; connections that are still open are reset.

        Listeners that are open even now are not closed on purpose: who keeps them for the next agent goes on.
        """
        self._closing = True
        self._forwarder.stop()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._listeners.leave()
        self._namespace.close()

    def _left_out(self) -> str:
        count = sum(served.left_out for served in self._served.values())
        if not count:
            return ""
        ports = "1 port is" if count == 1 else f"{count} ports are"
        return f"{ports} not served for want of file descriptors: {self._no_room()}"

    def _shortage(self) -> str:
        milliseconds, error = self._forwarder.shortage()
        if milliseconds < _TOLD:
            return ""
        what = out(error) if error in OUT else f"the kernel refuses them ({os.strerror(error)})"
        return f"clients wait to be accepted: {what}"

    def _no_room(self) -> str:
        return (
            f"only {self._descriptors.limit} may be open, of which listening sockets get half; "
            f"{RAISE}, or publish fewer ports"
        )

    def _change(self, port: Port, served: _Served, state: PortState) -> None:
        """The port is served in another way now; when it cannot be any more, the next look opens it anew."""
        reason = self._listeners.reason(port)
        if state is PortState.FAILED:
            self._close([served])
        served.state, served.reason = state, reason

    def _forget_listeners(self) -> None:
        self._listeners.close_all()
        for port, served in self._served.items():
            if served.listening:
                served.state, served.reason = PortState.FAILED, f"port {port}: the agent is stopping"

    def _forget_sockets(self, served: _Served) -> None:
        self._descriptors.sockets -= served.sockets
        served.sockets = 0

    def _update(self, wanted: dict[Port, Entry]) -> dict[int, _Dropped]:
        """Has `_served` name what is wanted; backends that it no longer names."""
        dropped: dict[int, _Dropped] = {}
        for port, entry in wanted.items():
            served = self._served.get(port)
            if served is None:
                number = self._forwarder.add_port(port.published, port.protocol is Protocol.UDP)
                served = self._served[port] = _Served(entry, number)
            elif served.taken is entry:
                continue
            dropped |= _dropped(self._update_backends(served, entry), entry)
            self._drain(served)
            if entry.policy.access_log:
                self._subjects.ports[served.port_id] = entry.port, entry.service
                self._subjects.backends |= {number: of for of, number in served.backends.values()}
            served.taken = entry
        return dropped

    def _drain(self, served: _Served) -> None:
        """Starts and stops the clock of backends that drain."""
        for backend, number in served.backends.values():
            seconds = served.entry.policy.drain if backend.state in _ENDING else 0
            if seconds != self._draining.get(number, 0):
                self._draining[number] = seconds
                self._forwarder.end_backend(number, round(seconds * 1000) or None)

    def _end(self, dropped: dict[int, _Dropped], table: Table) -> None:
        """Ends the connections of backends that are gone: at once where they are dead, else as they drain."""
        dead = table.absent is BackendState.DOWN
        for backend, (task, seconds) in dropped.items():
            before = self._draining.pop(backend, 0)
            if seconds is None or (dead and task not in table.living):
                self._forwarder.end_backend(backend, 0)
            elif seconds and not before:
                self._forwarder.end_backend(backend, round(seconds * 1000))

    def _update_backends(self, served: _Served, entry: Entry) -> Iterable[tuple[Backend, int]]:
        before, served.entry, served.backends = served.backends, entry, {}
        for backend in entry.backends:
            key = (backend.task, backend.address, backend.port)
            _, known = before.pop(key, (None, None))
            if key not in served.backends:
                number = self._add_backend(backend) if known is None else known
                served.backends[key] = backend, number
                if entry.policy.client_address == TRANSPARENT:
                    self._forwarder.prepare_backend(number, backend.prepared)
        return before.values()

    def _add_backend(self, backend: Backend) -> int:
        return self._forwarder.add_backend(packed(backend.address), backend.port)

    def _publish(self, namespace_fd: int) -> None:
        """The descriptor is the workers' afterwards."""
        routes = tuple(
            route(served.port_id, _tiers(served), served.entry.policy, self._table.masked)
            for served in self._served.values()
        )
        self._forwarder.publish(routes, namespace_fd, self._namespace.id)

    def _close(self, gone: list[_Served]) -> None:
        for served in gone:
            if served.listening:
                # First the redirect: new clients then find Swarm's mesh, not a port that closes.
                self._listeners.close(_door(served.entry.port))
                self._forwarder.close_listeners(served.port_id)
                self._forget_sockets(served)
        self._await_closed([served.port_id for served in gone])

    def _await_closed(self, ports: list[int], seconds: float = _CLOSING) -> None:
        """Until workers have taken what had completed its handshake: it needs a table that names its port."""
        end = time.monotonic() + (seconds if self._threads else 0)
        while any(map(self._forwarder.listening, ports)) and time.monotonic() < end:
            time.sleep(0.001)

    def _retire(self, gone: list[_Served], dropped: Iterable[int]) -> None:
        for served in gone:
            self._forwarder.retire_port(served.port_id)
            self._leaving.add(served.port_id)
        for backend in dropped:
            self._forwarder.retire_backend(backend)

    def _close_moved(self) -> None:
        """Ports that are for other addresses now, to be opened anew."""
        moved = [
            served
            for served in self._served.values()
            if served.listening and served.listen != served.entry.policy.listen
        ]
        self._close(moved)
        for served in moved:
            served.state, served.reason = PortState.FAILED, f"port {served.entry.port}: its addresses change"

    def _open_closed(self) -> None:
        closed = [of for of in self._served.values() if not of.listening and not self._closing]
        for index, served in enumerate(closed):
            self._open(_door(served.entry.port), served, len(closed) - index)

    def _open(self, port: Port, served: _Served, ports: int) -> None:
        """Opens the first of `ports` that are to be opened."""
        if self._namespace.problem:
            served.reason = f"port {port}: {self._namespace.problem}"
            return
        listen = served.entry.policy.listen
        try:
            count = self._descriptors.each(self._listeners.places(port, listen), ports)
            served.left_out = not count
            if served.left_out:
                raise PortError(f"port {port}: no file descriptor is left for it: {self._no_room()}")
            opening = self._listeners.open(port, count, listen)
        except PortError as error:
            served.reason = str(error)
            return
        served.first = self._next_worker
        self._add(served, opening.sockets)
        self._next_worker = (self._next_worker + served.sockets) % self.workers
        served.state, served.reason = opening.state, opening.reason
        served.listen = served.entry.policy.listen

    def _add(self, served: _Served, sockets: tuple[socket.socket, ...]) -> None:
        self._listen(served, sockets, served.sockets)
        served.sockets += len(sockets)
        self._descriptors.sockets += len(sockets)

    def _listen(self, served: _Served, sockets: tuple[socket.socket, ...], before: int = 0) -> None:
        """Has the workers serve a port's sockets, besides those `before`; each stays with its worker."""
        for number, listener in enumerate(sockets, served.first + before):
            self._forwarder.listen(number % self.workers, served.port_id, listener.detach())

    def _share_out(self) -> None:
        """Tells the workers what listening sockets leave of the descriptors. There may be more by now."""
        of = self._descriptors
        of.limit = _file_limit()
        self._forwarder.share_out(of.clients, of.end, of.flows, of.pipes)

    def _reap(self) -> None:
        ports, backends = self._forwarder.reap()
        for port, row in ports:
            self._leaving.discard(port)
            self._past = _total(self._past, totals(row))
        if self._subjects.ports:
            self._take_records()  # what is gone has left its last ones
            self._subjects.forget((port for port, _ in ports), backends)

    def _take_records(self) -> None:
        """Bounded: where nobody asks for them, the workers' rings fill, and count what they lose."""
        if len(self._ended) < _KEPT and (rows := self._forwarder.records()):
            self._ended += self._subjects.ended(rows, time.monotonic(), time.time())

    def _statuses(self) -> tuple[PortStatus, ...]:
        return tuple(self._served[_door(entry.port)].status for entry in self._table.entries)


@contextlib.contextmanager
def _closed_on_failure(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _door(port: Port) -> Port:
    """A port as clients know it, whatever port its tasks listen on now."""
    return Port(port.published, 0, port.protocol)


def _draining(entry: Entry) -> float | None:
    """Seconds that connections of a backend may live when the table no longer has it.

    None is at once: a client of UDP could go on for ever, and loses nothing by another backend.
    """
    return None if entry.port.protocol is Protocol.UDP else entry.policy.drain


def _dropped(backends: Iterable[tuple[Backend, int]], entry: Entry) -> dict[int, _Dropped]:
    seconds = _draining(entry)
    return {number: (backend.task, seconds) for backend, number in backends}


def _numbers(served: _Served) -> Iterable[int]:
    return (number for _, number in served.backends.values())


def _tiers(served: _Served) -> tuple[Members, Members]:
    """Who takes its connections; while nobody is up, those that drain or are suspected: they may answer."""
    policy = served.entry.policy
    backends = list(served.backends.values())
    if policy.client_address == TRANSPARENT and policy.fallback == "refuse":
        backends = [pair for pair in backends if pair[0].prepared]
    taking = [pair for pair in backends if pair[0].state is BackendState.UP]
    taking = taking or [pair for pair in backends if pair[0].state not in _NEVER]
    if served.entry.policy.locality == "none":
        return _members(taking), ()
    local = [pair for pair in taking if pair[0].local]
    remote = (
        [] if served.entry.policy.locality == "strict" else [pair for pair in taking if not pair[0].local]
    )
    return _members(local), _members(remote)


def _members(backends: Iterable[tuple[Backend, int]]) -> Members:
    return tuple((number, backend.weight) for backend, number in backends)


def _file_limit() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 0x7FFFFFFF if limit == resource.RLIM_INFINITY else limit


def _total(*counters: Counters) -> Counters:
    return Counters(*(sum(column) for column in zip(*map(astuple, counters), strict=True)))
