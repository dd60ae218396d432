"""The sockets of a process, this one or a child, to look at without asking the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_PIDFD_GETFD = 438  # the same on every architecture that Linux has gained or kept since 5.6
_SYSCALL = ctypes.CDLL(None, use_errno=True).syscall


def facing(port: int, pid: int = 0) -> socket.socket:
    """A duplicate of the process's socket whose peer has this port: to look at, and to close.

    While it is open, the kernel does not end the connection when the process closes its own.
    """
    with _process(pid or os.getpid()) as (process, numbers):
        for number in numbers:
            found = _duplicate(process, number)
            with contextlib.suppress(OSError):
                if found and found.getpeername()[1] == port:
                    return found
            if found:
                found.close()
    raise AssertionError(f"no socket of process {pid or os.getpid()} faces port {port}")


@contextlib.contextmanager
def _process(pid: int) -> Iterator[tuple[int, list[int]]]:
    """A descriptor of the process, and the numbers of its sockets."""
    process = os.pidfd_open(pid)
    try:
        yield process, [int(link.name) for link in Path(f"/proc/{pid}/fd").iterdir() if _is_socket(link)]
    finally:
        os.close(process)


def _is_socket(link: Path) -> bool:
    with contextlib.suppress(OSError):  # it may have been closed meanwhile
        return str(link.readlink()).startswith("socket:")
    return False


def _duplicate(process: int, number: int) -> socket.socket | None:
    """None when it is no connected socket of IP, or has been closed meanwhile."""
    descriptor = int(_SYSCALL(_PIDFD_GETFD, process, number, 0))
    if descriptor < 0:
        return None
    found = socket.socket(fileno=descriptor)
    if found.family in (socket.AF_INET, socket.AF_INET6):
        return found
    found.close()
    return None
