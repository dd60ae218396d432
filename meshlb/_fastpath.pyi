"""The whole Python surface of the data plane. Its methods are for one control thread at a time."""

from typing import final

from meshlb.route import Route

@final
class Forwarder:
    """Worker threads, the table they serve and what they count.

    Ports and backends are ids: added, named by published routes, retired when a published table no longer
    names them, and reaped when no connection refers to them any more.
    """

    def __new__(cls, workers: int) -> Forwarder: ...
    def share_out(self, clients: int, end: int, flows: int, pipes: int) -> None:
        """From descriptor `clients` on no client is accepted, and from `end` on workers open nothing.

        There may be so many `flows` of UDP, and `pipes` of each worker.
        """

    def shortage(self) -> tuple[int, int]:
        """For how long clients have been kept waiting, in milliseconds, for want of what: an errno.

        Zeros where nothing has been short for a second.
        """

    def run(self, worker: int) -> None:
        """Serves as worker number `worker` until `stop`, without the GIL. Call it in a thread of its own."""

    def stop(self) -> None:
        """Has every `run` return; connections that are open are reset."""

    def add_port(self, published: int, datagrams: bool = False) -> int:
        """The id of a new port of TCP, or, with `datagrams`, of UDP. `published` is what clients speak to."""

    def add_backend(self, address: bytes, port: int) -> int:
        """The id of a new backend at 4 (IPv4) or 16 (IPv6) bytes of address, and a port number."""

    def prepare_backend(self, backend: int, prepared: bool) -> None:
        """Whether its answers to clients' own addresses find their way back to this node."""

    def end_backend(self, backend: int, after: int | None = None) -> None:
        """Ends its connections: at once (0), in `after` milliseconds, or, with None, not any more.

        The workers learn of it with the next table that is published.
        """

    def listen(self, worker: int, port: int, fd: int) -> None:
        """Hands a non-blocking socket, listening or of UDP, to a worker, which owns it from here on."""

    def close_listeners(self, port: int | None = None) -> None:
        """Accepts what has completed its handshake, then closes the port's listeners; all with None."""

    def release_listeners(self) -> None:
        """Closes the workers' own descriptors of all listeners; what waits in the sockets is not touched.

        The sockets live on in other descriptors. Those of UDP stay for answers that are under way.
        """

    def listening(self, port: int) -> bool:
        """Whether listeners of the port are still open."""

    def publish(self, routes: tuple[Route, ...], namespace_fd: int, namespace_id: int) -> None:
        """Replaces the table by one with a route for each port.

        Backends are reached in the namespace that `namespace_fd` is open on; the table owns it from here on.
        Id 0 is the namespace that the process started in and needs no descriptor (-1).
        """

    def retire_port(self, port: int) -> None:
        """The table last published does not name the port any more, and its listeners are being closed."""

    def retire_backend(self, backend: int) -> None:
        """The table last published does not name the backend any more."""

    def reap(self) -> tuple[list[tuple[int, bytearray]], list[int]]:
        """Frees what nobody refers to any more: ports with their last row, and backends."""

    def port_rows(self, ports: list[int]) -> bytearray:
        """A row for each port, its counters summed over the workers; `meshlb.counts` reads them."""

    def backend_rows(self, backends: list[int]) -> bytearray:
        """A row for each backend, its counters summed over the workers, and how it stands."""

    def records(self) -> bytearray:
        """Takes the records of ended connections whose routes have an access log, for `meshlb.records`."""

    def records_lost(self) -> int:
        """How many there were no place for, since the start."""

    def worker_rows(self) -> bytearray:
        """A row for each worker: the turns of its loop, and how long some of them took."""

    def held(self) -> tuple[int, int]:
        """Ports and backends that have not been reaped."""

    def pipes(self) -> tuple[int, int]:
        """Pipes (made, closed) since the start."""

def enter_namespace(fd: int) -> None:
    """Moves the calling thread into a network namespace; OSError when it may not."""
