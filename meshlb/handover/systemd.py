"""What we say to the service manager that started us, and what it has kept for us.

It is systemd, or our own keeper, which speaks the same: see sd_notify(3) and sd_listen_fds(3).
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence

from meshlb.ports.inherited import Named

FIRST = 3  # the first descriptor that is handed to a process that starts
MOST = 200  # descriptors in one message; the kernel takes 253
PATIENCE = 1.0  # seconds that a manager has to do as told
PAUSE = 60.0  # seconds for which one that does not is left alone

log = logging.getLogger(__name__)


def notify(*lines: str, fds: Sequence[int] = ()) -> bool:
    """Tell it, where there is one that wants to hear. False when it does not."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # an abstract address begins with a zero byte
        address = "\0" + address[1:]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(PATIENCE)
            sender.sendmsg(["\n".join(lines).encode()], rights, 0, address)
    except OSError as error:
        log.warning("systemd cannot be notified: %s", error)
        return False
    return True


def leave() -> None:
    """Tell it nothing more: another process is the service now."""
    os.environ.pop("NOTIFY_SOCKET", None)


def starts_us(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether it has started this very process: not our replacement, nor a shell's. systemd 248 and later."""
    return environment.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def watchdog(environment: MutableMapping[str, str] = os.environ) -> float:
    """Seconds after which it takes an agent for hung that has not said WATCHDOG=1; 0 where it does not.

    The process that it is meant for is forgotten: an agent's replacement gets its environment, and its duty.
    """
    meant_for = environment.pop("WATCHDOG_PID", "")
    wanted = environment.get("WATCHDOG_USEC", "")
    return int(wanted) / 1e6 if wanted.isdecimal() and meant_for in ("", str(os.getpid())) else 0.0


def barrier() -> bool:
    """Wait until it has done what it was told so far, for a second at most. False when it has not."""
    ours, its = os.pipe2(os.O_CLOEXEC)
    try:
        told = notify("BARRIER=1", fds=[its])
        os.close(its)
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        done = told and bool(poll.poll(PATIENCE * 1000))
    finally:
        os.close(ours)
    if told and not done:
        log.warning("systemd has not done for %g s what it was told", PATIENCE)
    return done


class SystemdStore:
    """Its store of descriptors: sockets outlive a crash there, and clients wait for the next agent.

    A manager that hangs is waited for once, and then left alone for a while: ports are not to wait for it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left_alone_until = 0.0
        self._names = set[str]()

    def keep(self, name: str, sockets: Iterable[socket.socket]) -> None:
        """Keep these, too."""
        self._names.add(name)
        fds = [each.fileno() for each in sockets]
        for start in range(0, len(fds), MOST):
            # Without FDPOLL=0 it would forget a socket that an error is pending on.
            self._tell("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=fds[start : start + MOST])

    def drop(self, names: Iterable[str]) -> None:
        """Keep those of these names no longer; returns when they are let go of, after seconds at most."""
        gone = tuple(names)
        self._names.difference_update(gone)
        told = [self._tell("FDSTOREREMOVE=1", f"FDNAME={name}") for name in gone]
        if told and told[-1] and not barrier():
            self._leave_alone()

    def drop_all(self) -> None:
        """Keep none any longer."""
        self.drop(sorted(self._names))

    def _tell(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        if "NOTIFY_SOCKET" not in os.environ or self._clock() < self._left_alone_until:
            return False
        told = notify(*lines, fds=fds)
        if not told:
            self._leave_alone()
        return told

    def _leave_alone(self) -> None:
        self._left_alone_until = self._clock() + PAUSE


def passed_on(environment: MutableMapping[str, str] = os.environ) -> list[Named]:
    """The sockets that it has kept for this process, once: children must not believe they are theirs."""
    pid, count, names = (environment.pop(f"LISTEN_{word}", "") for word in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    fds = range(FIRST, FIRST + int(count))
    labels = names.split(":") if names else []
    labels += ["unknown"] * (len(fds) - len(labels))
    return list(_sockets(zip(labels, fds, strict=False)))


def _sockets(labelled: Iterable[tuple[str, int]]) -> Iterable[Named]:
    for label, fd in labelled:
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)
            try:
                yield label, (socket.socket(fileno=fd),)
            except OSError:  # no socket
                os.close(fd)
