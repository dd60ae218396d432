"""Keeps an agent running, and its sockets while it is not, where no systemd does: `meshlb-agent --keeper`.

It starts the agent again whenever that dies, at once and then ever more slowly, and speaks with it as systemd
would (sd_notify(3), sd_listen_fds(3)): an agent stores its sockets here, and the next one gets them. A client
that connects meanwhile waits for the next agent to accept.

It lives as long as the container that it is made for, so it is small and imports nothing of the rest.

    starting ──► running ──(agent dies)──► pause ──► starting
                    │  │└──(MAINPID=)──► running another one; the one before ends in its own time
                    │  └───(silent for WATCHDOG seconds: killed)──► pause ──► starting
                    └──(SIGTERM, SIGINT: passed on)──► ending ──(all have ended)──► its exit code
                    └──(ends well: an agent of elsewhere has its place)──► idle, until it is told to end

It stays when it is idle: Swarm would start a task again that ends by itself while an update goes on.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

FIRST = 3  # the first descriptor that is handed to a process that starts
MOST = 8192  # sockets that are kept: their names must fit into one variable of the environment
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
SHORT, LONG = 0.1, 10.0  # seconds of the first and the longest pause
STEADY = 1.0  # seconds that an agent must have lived, and served, to be started again at once
MESSAGES = 64  # read in a turn, whoever sends them: nothing else waits for long
MISUSE = 2  # the exit code for a mistyped option, which does not get better by trying again
WATCHDOG = 60.0  # seconds of silence after which an agent that has come to serve hangs
_SET_CHILD_SUBREAPER = 36
_CREDENTIALS = struct.Struct("=iII")


class Keeper:
    """Runs `command` until it is told to end."""

    def __init__(
        self,
        command: list[str],
        clock: Callable[[], float] = time.monotonic,
        watchdog: float = WATCHDOG,
    ) -> None:
        self.agent = 0  # the process that is the agent now; 0 for none
        self.kept: dict[tuple[int, int], tuple[str, int]] = {}  # name and descriptor, by device and inode
        self.ending = False
        self.code = 0
        self._command, self._clock, self._watchdog = command, clock, watchdog
        self._heard = 0.0  # when the agent was last heard of
        self._before: set[int] = set()  # agents that another one has replaced
        self._served = False  # the agent has come to serve
        self._pause, self._started, self._start_at = 0.0, 0.0, clock()
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._ear.bind("")  # an abstract address of the kernel's choice
        self._ear.setblocking(False)
        self._address = "@" + self._ear.getsockname()[1:].decode()

    def run(self) -> int:
        """Until it is told to end; the agent's exit code."""
        woken, waker = socket.socketpair()
        for end in (woken, waker):
            end.setblocking(False)
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        poll.register(self._ear, select.POLLIN)
        while not self._is_over():
            poll.poll(self._patience())
            _empty(woken)
            self._listen()
            self._reap()
        return self.code

    def _is_over(self) -> bool:
        return self.ending and not self.agent and not self._before

    def _patience(self) -> float | None:
        """Starts the agent when it is time, kills it when it hangs; milliseconds until then."""
        if self.ending or (self.agent and not self._served):
            return None
        if self.agent:
            return self._overdue() * 1000
        left = self._start_at - self._clock()
        if left == float("inf"):
            return None
        if left > 0:
            return left * 1000
        self._start()
        return None

    def _overdue(self) -> float:
        """Seconds until the agent has been silent for too long; it is killed then."""
        left = self._heard + self._watchdog - self._clock()
        if left <= 0:
            _say(f"the agent has been silent for {self._watchdog:g} s, so it is killed")
            os.kill(self.agent, signal.SIGKILL)
            self._heard = self._clock()  # until its end is told
        return max(left, 0.1)

    # -- The agent

    def _start(self) -> None:
        self._started, self._served = self._clock(), False
        # A signal that comes now waits until it is known whom to pass it on to.
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        pid = os.fork()
        if pid == 0:
            try:
                self._become_agent()
            except BaseException as error:
                os.write(2, f"meshlb-agent: {self._command[0]} cannot be started: {error}\n".encode())
            finally:
                os._exit(127)
        self.agent = pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)

    def _become_agent(self) -> None:
        names, fds = [name for name, _ in self.kept.values()], [fd for _, fd in self.kept.values()]
        # First out of the way of the numbers that they are to have.
        for index, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST + len(fds)) for fd in fds]):
            os.dup2(fd, FIRST + index)
        told = {"NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": str(int(self._watchdog * 1e6))}
        if fds:
            told |= {
                "LISTEN_PID": str(os.getpid()),
                "LISTEN_FDS": str(len(fds)),
                "LISTEN_FDNAMES": ":".join(names),
            }
        for number in (*PASSED_ON, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        os.execve(self._command[0], self._command, {**os.environ, **told})  # noqa: S606  no shell is wanted

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        ends = number in (signal.SIGTERM, signal.SIGINT)
        self.ending = self.ending or ends
        for pid in {self.agent, *self._before} if ends else {self.agent}:
            if pid:
                os.kill(pid, number)

    def _reap(self) -> None:
        """All that have ended: in a container every orphan is ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._before.discard(pid)
            if pid == self.agent:
                self._ended(os.waitstatus_to_exitcode(status))

    def _ended(self, code: int) -> None:
        self.agent = 0
        self.code = code if code >= 0 else 128 - code
        if self.ending or code == MISUSE:
            self.ending = True
            return
        if code == 0:
            self._start_at = float("inf")
            _say("another agent has this one's place; nothing is left to do here")
            return
        steady = self._served and self._clock() - self._started >= STEADY
        self._pause = 0.0 if steady else min(max(self._pause * 2, SHORT), LONG)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        wait = f"in {self._pause:g} s" if self._pause > SHORT else "now"
        _say(f"the agent {how}; it is started again {wait}")
        self._start_at = self._clock() + (self._pause if self._pause > SHORT else 0.0)

    # -- What agents say

    def _listen(self) -> None:
        room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(253 * 4)
        for _ in range(MESSAGES):
            try:
                data, parts, _, _ = self._ear.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            sender, fds = _understood(parts)
            lines = dict(line.partition("=")[::2] for line in data.decode(errors="replace").split("\n"))
            self._obey(sender, lines, fds)
            for fd in fds:
                os.close(fd)

    def _obey(self, sender: int, lines: dict[str, str], fds: list[int]) -> None:
        if not self._is_agent(sender):
            return
        if sender == self.agent:
            self._heard = self._clock()
            self._served = self._served or "READY" in lines
        if "FDSTORE" in lines:
            self._keep(lines.get("FDNAME", "stored"), fds)
        if "FDSTOREREMOVE" in lines:
            self._drop(lines.get("FDNAME", ""))
        if lines.get("MAINPID", "").isdecimal():
            self._follow(int(lines["MAINPID"]))

    def _is_agent(self, pid: int) -> bool:
        return pid > 0 and (pid == self.agent or pid in self._before or _parent(pid) == os.getpid())

    def _follow(self, pid: int) -> None:
        if pid != self.agent and _parent(pid) == os.getpid():
            if self.agent:
                self._before.add(self.agent)
            self.agent, self._heard = pid, self._clock()
            if self.ending:
                os.kill(pid, signal.SIGTERM)

    def _keep(self, name: str, fds: list[int]) -> None:
        """Takes descriptors out of `fds`, unless the same are kept."""
        for fd in list(fds):
            status = os.fstat(fd)
            key = status.st_dev, status.st_ino
            if key not in self.kept and len(self.kept) < MOST and name.isprintable() and ":" not in name:
                self.kept[key] = name, fd
                fds.remove(fd)

    def _drop(self, name: str) -> None:
        for key in [key for key, (kept, _) in self.kept.items() if kept == name]:
            os.close(self.kept.pop(key)[1])


def _say(sentence: str) -> None:
    print(f"meshlb-agent: {sentence}", file=sys.stderr, flush=True)


def _empty(end: socket.socket) -> None:
    try:
        while end.recv(4096):
            pass
    except BlockingIOError:
        pass


def _understood(parts: list[tuple[int, int, bytes]]) -> tuple[int, list[int]]:
    """The sender's process id, 0 where it is another user's, and descriptors that are ours to close."""
    sender, fds = 0, array.array("i")
    for level, kind, data in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid, user, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
            sender = pid if user == os.geteuid() else 0
    return sender, list(fds)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def main() -> None:
    """Keep the command in the arguments running."""
    ctypes.CDLL(None).prctl(
        _SET_CHILD_SUBREAPER, 1, 0, 0, 0
    )  # so that an agent's replacement is our child, too
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, MOST * 2)), hard))
    sys.exit(Keeper(sys.argv[1:]).run())


if __name__ == "__main__":
    main()
