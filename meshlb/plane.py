"""What serves a table: the owner of the worker threads, of the listeners and of everything they count."""

from __future__ import annotations

import ipaddress
import os
import threading
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from meshlb._fastpath import Forwarder, enter_namespace
from meshlb.errors import PortError
from meshlb.model import BackendState, Counters, Port, PortState, PortStatus, Protocol
from meshlb.namespace import Namespace
from meshlb.table import Backend, Entry, Table

if TYPE_CHECKING:
    from meshlb.listen import Opening

_Key = tuple[str, str, int]


class Listeners(Interface):
    """Opens the sockets of published ports; `meshlb.listen.Listeners` is the real one."""

    def open(self, port: Port, count: int) -> Opening:
        """`count` listening sockets, one for each worker; PortError says why not."""

    def close(self, port: Port) -> None:
        """The port is not served any more; its sockets are the plane's to close."""

    def recheck(self) -> dict[Port, PortState]:
        """How ports are served now, where that may change behind our back."""

    def reason(self, port: Port) -> str:
        """Why the port is served as it is."""


@dataclass(slots=True)
class _Served:
    """A port of the table in use, with the ids that the workers know it and its backends by."""

    entry: Entry
    port_id: int
    backends: dict[_Key, tuple[Backend, int]] = field(default_factory=dict)
    state: PortState = PortState.FAILED
    reason: str = ""

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
        self._namespace = Namespace(enter_namespace)
        self._table = Table()
        self._served: dict[Port, _Served] = {}
        self._leaving: set[int] = set()  # ids of ports whose last connections are still open
        self._closing = False
        self._past = Counters()
        self._threads: list[threading.Thread] = []

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
        namespace_fd = self._namespace.duplicate()  # first: from here on nothing fails half-way
        wanted = {entry.port: entry for entry in table.entries if entry.port.protocol is Protocol.TCP}
        gone = [self._served.pop(port) for port in list(self._served) if port not in wanted]
        dropped = self._update(wanted)
        self._close(gone)
        self._publish(namespace_fd)
        self._retire(gone, dropped)
        self._open_closed()
        self._reap()
        return self._statuses()

    def recheck(self) -> tuple[PortStatus, ...]:
        """Tries failed ports again and looks whether others are served in another way now."""
        before = self._namespace.id
        self._namespace.use(self._table.namespace)
        if self._namespace.id != before:
            self._publish(self._namespace.duplicate())
        self._open_closed()
        for port, state in self._listeners.recheck().items():
            served = self._served.get(port)
            if served and served.listening:
                self._change(port, served, state)
        self._reap()
        return self._statuses()

    def counters(self) -> Counters:
        """Totals of all ports since the start, those that have gone included."""
        ports = [served.port_id for served in self._served.values()] + list(self._leaving)
        return _total(self._past, *(Counters(*self._forwarder.port_counters(port)) for port in ports))

    def close_listeners(self) -> None:
        """Accepts what has completed its handshake, then nothing more; established connections go on."""
        self._closing = True
        self._forget_listeners()
        self._forwarder.close_listeners()

    def stop(self) -> None:
        """Ends the workers; connections that are still open are reset."""
        self._closing = True
        self._forwarder.stop()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._forget_listeners()
        self._namespace.close()

    def _change(self, port: Port, served: _Served, state: PortState) -> None:
        """The port is served in another way now; when it cannot be any more, the next look opens it anew."""
        reason = self._listeners.reason(port)
        if state is PortState.FAILED:
            self._close([served])
        served.state, served.reason = state, reason

    def _forget_listeners(self) -> None:
        for port, served in self._served.items():
            if served.listening:
                self._listeners.close(port)
                served.state, served.reason = PortState.FAILED, f"port {port}: the agent is stopping"

    def _update(self, wanted: dict[Port, Entry]) -> list[int]:
        """Has `_served` name the wanted ports and backends; the ids of backends that they no longer name."""
        dropped: list[int] = []
        for port, entry in wanted.items():
            served = self._served.get(port)
            if served is None:
                served = self._served[port] = _Served(entry, self._forwarder.add_port())
            dropped += self._update_backends(served, entry)
        return dropped

    def _update_backends(self, served: _Served, entry: Entry) -> list[int]:
        before, served.entry, served.backends = served.backends, entry, {}
        for backend in entry.backends:
            key = (backend.task, backend.address, backend.port)
            _, known = before.pop(key, (None, None))
            if key not in served.backends:
                served.backends[key] = backend, self._add_backend(backend) if known is None else known
        return [dropped for _, dropped in before.values()]

    def _add_backend(self, backend: Backend) -> int:
        return self._forwarder.add_backend(ipaddress.ip_address(backend.address).packed, backend.port)

    def _publish(self, namespace_fd: int) -> None:
        routes = tuple(_route(served) for served in self._served.values())
        try:
            self._forwarder.publish(routes, namespace_fd, self._namespace.id)
        except BaseException:
            os.close(namespace_fd)
            raise

    def _close(self, gone: list[_Served]) -> None:
        for served in gone:
            if served.listening:
                # First the redirect: new clients then find Swarm's mesh, not a port that closes.
                self._listeners.close(served.entry.port)
                self._forwarder.close_listeners(served.port_id)

    def _retire(self, gone: list[_Served], dropped: list[int]) -> None:
        for served in gone:
            self._forwarder.retire_port(served.port_id)
            self._leaving.add(served.port_id)
            dropped += [backend for _, backend in served.backends.values()]
        for backend in dropped:
            self._forwarder.retire_backend(backend)

    def _open_closed(self) -> None:
        for port, served in self._served.items():
            if not served.listening and not self._closing:
                self._open(port, served)

    def _open(self, port: Port, served: _Served) -> None:
        if self._namespace.problem:
            served.reason = f"port {port}: {self._namespace.problem}"
            return
        try:
            opening = self._listeners.open(port, self.workers)
        except PortError as error:
            served.reason = str(error)
            return
        for worker, listener in enumerate(opening.sockets):
            self._forwarder.listen(worker, served.port_id, listener.detach())
        served.state, served.reason = opening.state, opening.reason

    def _reap(self) -> None:
        ports, _ = self._forwarder.reap()
        for port, counters in ports:
            self._leaving.discard(port)
            self._past = _total(self._past, Counters(*counters))

    def _statuses(self) -> tuple[PortStatus, ...]:
        return tuple(self._status(entry) for entry in self._table.entries)

    def _status(self, entry: Entry) -> PortStatus:
        served = self._served.get(entry.port)
        if served:
            return served.status
        reason = f"port {entry.port}: UDP is not served yet; publish it with mode=host"
        return PortStatus(entry.port, entry.service, PortState.FAILED, reason)


def _route(served: _Served) -> tuple[int, int, tuple[int, ...]]:
    """Its backends that are up; while there is none, those that are draining: they still answer."""
    ids = {state: tuple(n for b, n in served.backends.values() if b.state is state) for state in BackendState}
    usable = ids[BackendState.UP] or ids[BackendState.DRAINING]
    return served.port_id, round(served.entry.policy.connect_timeout * 1000), usable


def _total(*counters: Counters) -> Counters:
    return Counters(*(sum(column) for column in zip(*map(astuple, counters), strict=True)))
