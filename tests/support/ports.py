"""Ports for this process alone: other tests run at the same time, on the same addresses.

The kernel gives them to nobody, be it a server that asks for any or a connection that needs one. Each process
has a share of them for as long as it lives.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

FIRST, SHARE, SHARES = 10_000, 400, 50  # up to 30,000: the kernel's own begin at 32,768


def free() -> int:
    """The next port of our share at which nobody listens."""
    return next(port for port in itertools.islice(_ours(), SHARE) if _is_free(port))


@functools.cache
def _ours() -> Iterator[int]:
    number = next(number for number in range(SHARES) if _claim(number))
    first = FIRST + number * SHARE
    return itertools.cycle(range(first, first + SHARE))


def _claim(number: int) -> bool:
    """Whether the share is ours from now on; the kernel ends that with the process."""
    folder = Path(tempfile.gettempdir()) / "meshlb-test-ports"
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / str(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def _is_free(port: int) -> bool:
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET6, kind) as probe:
                probe.bind(("::", port))
    except OSError:
        return False
    return True


_ours()  # now: tests count descriptors
