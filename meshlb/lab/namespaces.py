"""Where the children of this thread are born: the process namespace calls that Python 3.11 lacks.

`setns` and `unshare` on a process namespace move only the children that the calling thread starts, so a
child started inside these blocks is a direct child of ours (its pid, its signals and its exit status are
ours to use) and yet lives in the other namespace.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWPID = 0x20000000

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def children_in_new_pid_namespace() -> Iterator[None]:
    """The first child started inside is process 1 of a namespace of its own: when it dies, all in it die."""
    with _own_pid_namespace_afterwards():
        _check(_libc.unshare(CLONE_NEWPID))
        yield


@contextmanager
def children_in_pid_namespace_of(pid: int) -> Iterator[None]:
    """Children started inside live in the process namespace of `pid`."""
    with _own_pid_namespace_afterwards():
        with _opened(f"/proc/{pid}/ns/pid") as other:
            _check(_libc.setns(other, CLONE_NEWPID))
        yield


@contextmanager
def _own_pid_namespace_afterwards() -> Iterator[None]:
    with _opened("/proc/thread-self/ns/pid") as own:
        try:
            yield
        finally:
            _check(_libc.setns(own, CLONE_NEWPID))


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
