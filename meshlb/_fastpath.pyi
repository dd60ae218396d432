"""The whole Python surface of the data plane. Its methods are for one control thread at a time."""

from typing import final

# (accepted, closed, failed, failovers, bytes received from clients, bytes sent to clients)
_PortCounters = tuple[int, int, int, int, int, int]

@final
class Forwarder:
    """Worker threads, the table they serve and what they count.

    Ports and backends are ids: added, named by published routes, retired when a published table no longer
    names them, and reaped when no connection refers to them any more.
    """

    def __new__(cls, workers: int) -> Forwarder: ...
    def run(self, worker: int) -> None:
        """Serves as worker number `worker` until `stop`, without the GIL. Call it in a thread of its own."""

    def stop(self) -> None:
        """Has every `run` return; connections that are open are reset."""

    def add_port(self) -> int:
        """The id of a new port."""

    def add_backend(self, address: bytes, port: int) -> int:
        """The id of a new backend at 4 (IPv4) or 16 (IPv6) bytes of address, and a port number."""

    def listen(self, worker: int, port: int, fd: int) -> None:
        """Hands a listening, non-blocking socket to a worker, which owns it from here on."""

    def close_listeners(self, port: int | None = None) -> None:
        """Accepts what has completed its handshake, then closes the port's listeners; all with None."""

    def publish(
        self, routes: tuple[tuple[int, int, tuple[int, ...]], ...], namespace_fd: int, namespace_id: int
    ) -> None:
        """Replaces the table: (port id, connect timeout in ms, backend ids) for each port.

        Backends are reached in the namespace that `namespace_fd` is open on; the table owns it from here on.
        Id 0 is the namespace that the process started in and needs no descriptor (-1).
        """

    def retire_port(self, port: int) -> None:
        """The table last published does not name the port any more, and its listeners are being closed."""

    def retire_backend(self, backend: int) -> None:
        """The table last published does not name the backend any more."""

    def reap(self) -> tuple[list[tuple[int, _PortCounters]], list[int]]:
        """Frees what nobody refers to any more: ports with their last counters, and backends."""

    def port_counters(self, port: int) -> _PortCounters:
        """The port's counters, summed over the workers."""

    def backend_counters(self, backend: int) -> tuple[int, int, int, int, int, int]:
        """(chosen, ended, connected, failed, bytes received from clients, bytes sent to clients)."""

    def held(self) -> tuple[int, int]:
        """Ports and backends that have not been reaped."""

    def pipes(self) -> tuple[int, int]:
        """Pipes (made, closed) since the start."""

def enter_namespace(fd: int) -> None:
    """Moves the calling thread into a network namespace; OSError when it may not."""
