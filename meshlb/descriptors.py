"""What the file descriptors that this process may have are for. Pure.

The agent's own come first, then listening sockets, which take half of all at most; then clients, those of
UDP among them. Some are left for the backends of clients that are in, and the very last ones for Python: the
status page answers when all others are out.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

RAISE = "raise LimitNOFILE (systemd) or ulimit -n"
OUT = (errno.EMFILE, errno.ENFILE)

_OWN = 24  # the agent's, besides an epoll and an eventfd of each worker
_EACH = 2  # of a listening socket: a worker's, and ours for the agent that takes over
_FEWEST = 8  # that listening sockets leave to clients and their backends
_BACKENDS = 128  # that clients leave to their backends
_PER_PIPE = 32  # descriptors that are not listening sockets'
_MOST_PIPES = 1024
_PYTHON = 16  # that workers leave to Python
_LATER = 64  # ports that may still come, and are to find room


def out(error: int) -> str:
    """What is out, by one of OUT, and what to do."""
    if error == errno.ENFILE:
        return "the machine is out of file descriptors; raise sysctl fs.file-max"
    return f"the agent is out of file descriptors; {RAISE}"


@dataclass(slots=True)
class Descriptors:
    """Shares out `limit` descriptors. `sockets` is how many listening ones there are."""

    limit: int
    workers: int
    sockets: int = 0

    @property
    def most(self) -> int:
        """Listening sockets that there may be."""
        return max(0, min(self.limit // 2, self.end - self._own - _FEWEST)) // _EACH

    def each(self, addresses: int, ports: int) -> int:
        """Listening sockets for each of the addresses of the first of `ports` that are to be opened.

        One for each worker, or as many as make its share; 0 where not even one is left.
        """
        free = (self.most - self.sockets) // addresses
        return max(0, min(self.workers, free, max(1, free // max(ports, _LATER))))

    @property
    def end(self) -> int:
        """From this descriptor on workers open nothing."""
        return self.limit - min(_PYTHON, self.limit // 8)

    @property
    def clients(self) -> int:
        """From this descriptor on no client is accepted."""
        return self.end - min(_BACKENDS, max(1, self._free // 2))

    @property
    def flows(self) -> int:
        """Conversations of UDP that there may be."""
        return max(self.workers, (self.clients - self._taken) // 2)

    @property
    def pipes(self) -> int:
        """Pipes that each worker may have for streams: those beyond them are copied.

        A stream to a client that reads slowly keeps one, with up to 256 KiB in it: all take 256 MiB at most.
        """
        of_all = min(max(0, self._free) // _PER_PIPE, _MOST_PIPES)
        return -(-of_all // self.workers)

    @property
    def _own(self) -> int:
        return _OWN + 2 * self.workers

    @property
    def _taken(self) -> int:
        return self._own + _EACH * self.sockets

    @property
    def _free(self) -> int:
        return self.end - self._taken
