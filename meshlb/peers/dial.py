"""Short attempts to connect, which tell a host that is there from one that is silent.

A connection that is established or refused is an answer of the host's kernel, with or without an agent behind
it. No answer in time is silence, and so is what this machine or a router says in its place: unreachable.
Attempts are looked at by `results` alone, without tasks or timers of their own, first at the network, then at
the clock: an answer that came while this process was held up still counts.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import struct
from dataclasses import dataclass

_ANSWERS = (0, errno.ECONNREFUSED, errno.ECONNRESET)
_SILENCE = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: whatever was established ends without a trace


@dataclass(slots=True)
class _Attempt:
    socket: socket.socket
    ends: float
    error: int  # EINPROGRESS, or how it ended at once


class Dials:
    """Attempts at one port of many hosts, at most one for each. Times are seconds of any one clock."""

    def __init__(self, port: int, patience: float) -> None:
        self._port, self._patience = port, patience
        self._attempts: dict[str, _Attempt] = {}

    def start(self, address: str, now: float) -> None:
        """Begin an attempt, unless one is under way. Where this machine cannot, none is."""
        if address in self._attempts:
            return
        try:
            family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
            dialling = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except (ValueError, OSError):
            return
        dialling.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        error = dialling.connect_ex((address, self._port))
        self._attempts[address] = _Attempt(dialling, now + self._patience, error)

    def stop(self, address: str) -> None:
        """Forget an attempt."""
        attempt = self._attempts.pop(address, None)
        if attempt:
            attempt.socket.close()

    def results(self, now: float) -> dict[str, bool]:
        """Whether hosts have answered, of the attempts that have ended since the last look."""
        if not self._attempts:
            return {}
        self._look()
        over = [
            a for a, found in self._attempts.items() if found.error != errno.EINPROGRESS or now >= found.ends
        ]
        results = {}
        for address in over:
            error = self._attempts[address].error
            self.stop(address)
            if error in _ANSWERS:
                results[address] = True
            elif error in _SILENCE or error == errno.EINPROGRESS:
                results[address] = False
        return results

    def close(self) -> None:
        """Forget all of them."""
        for address in list(self._attempts):
            self.stop(address)

    def _look(self) -> None:
        """Note how attempts have ended."""
        waiting = {a.socket.fileno(): a for a in self._attempts.values() if a.error == errno.EINPROGRESS}
        poll = select.poll()
        for descriptor in waiting:
            poll.register(descriptor, select.POLLOUT)
        for descriptor, _ in poll.poll(0):
            attempt = waiting[descriptor]
            attempt.error = attempt.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
