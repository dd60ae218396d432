"""The processes that hold a lab up: one per node and one for the switch, each the first of its namespaces.

They are the only truth about what runs. Each carries the lab's and the node's name in its arguments and is
process 1 of its own process namespace, so it is found again without a pid file, after any crash, and its
end takes everything along that was ever started in it: the engine, its containers, mounts and links.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from meshlb.errors import LabError
from meshlb.lab.namespaces import children_in_new_pid_namespace, children_in_pid_namespace_of

MARK = "meshlb-lab"
SWITCH = "switch"
SETUP_SECONDS = 20.0
DEATH_SECONDS = 20.0

_UNSHARE = ("unshare", "--mount", "--net", "--uts", "--ipc", "--propagation", "slave", "--mount-proc")
# What a node must not inherit: it reaches no proxy, and its own engine is the only one it speaks to.
_FOREIGN = {"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONFIG"}
_PROXIES = {"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

# Our own children among a lab's processes, by lab and node: when they end, it is for us to wait for them.
Children = dict[tuple[str, str], list[subprocess.Popen[Any]]]
_born: Children = {}
_guests: Children = {}


@dataclass(frozen=True, slots=True)
class Init:
    """Process 1 of a node (or of the switch), as seen from here."""

    lab: str
    node: str
    pid: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a reused pid does not count)."""
        return _read_init(self.pid) == self

    def namespace(self, kind: str) -> str:
        """The path of one of its namespaces: net, mnt, uts, pid."""
        return f"/proc/{self.pid}/ns/{kind}"


def find(lab: str | None = None) -> list[Init]:
    """Every such process on this machine, of one lab or of all."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    inits = (_read_init(pid) for pid in pids)
    return sorted(
        (init for init in inits if init and lab in (None, init.lab)), key=lambda init: (init.lab, init.node)
    )


def _read_init(pid: int) -> Init | None:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        if len(arguments) < 4 or arguments[-3] != MARK.encode():
            return None
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    nested = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
    if len(nested) < 2 or nested[-1] != "1":
        return None
    return Init(arguments[-2].decode(), arguments[-1].decode(), pid)


class Birth:
    """A new node between its first step and the moment it may start its engine.

    `script` is what `sh` runs, with its first arguments; the mark, the lab and the node follow.
    The process prints `ready` when its own set-up is done, then waits for a line. If we die meanwhile, it
    reads the end of the pipe instead, and ends: nothing half-made stays.
    """

    def __init__(self, lab: str, node: str, script: Sequence[str], log: IO[bytes]) -> None:
        self._log = Path(log.name)
        with children_in_new_pid_namespace():
            self.process = subprocess.Popen(
                [*_UNSHARE, "sh", *script, MARK, lab, node],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                cwd="/",
                start_new_session=True,
            )
        self.init = Init(lab, node, self.process.pid)
        _born.setdefault((lab, node), []).append(self.process)

    def wait_ready(self) -> None:
        """Returns when the set-up is done; LabError with its last words when it failed."""
        assert self.process.stdout  # noqa: S101 (for the type checker: we asked for a pipe)
        with self.process.stdout as pipe:
            readable, _, _ = select.select([pipe], [], [], SETUP_SECONDS)
            if not readable or pipe.readline() != b"ready\n":
                raise LabError(f"{self.init.node} could not be set up: {last_lines(self._log)}")

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin  # noqa: S101
        with self.process.stdin as pipe:
            pipe.write(b"go\n")


def environment() -> dict[str, str]:
    """Our environment, without what is about this machine's engine or its way out."""
    kept = {
        key: value for key, value in os.environ.items() if key not in _FOREIGN and key.lower() not in _PROXIES
    }
    return kept | {"DOCKER_CONTEXT": "default"}


def enter(init: Init, command: Sequence[str], directory: str = "/") -> list[str]:
    """The command line that runs `command` in all namespaces of `init` but the process namespace."""
    # The directory is entered after the namespaces: one opened before would still show our own /run.
    change = 'cd -- "$1" 2>/dev/null || cd /; shift; exec "$@"'
    flags = [f"--{flag}={init.namespace(kind)}" for flag, kind in _KINDS]
    return ["nsenter", *flags, "--", "sh", "-c", change, "sh", directory, *command]


_KINDS = (("ipc", "ipc"), ("net", "net"), ("uts", "uts"), ("mount", "mnt"))


def start_in(init: Init, command: Sequence[str], **options: object) -> subprocess.Popen[str]:
    """Start a command inside; its pid is the command's own, so that signals reach it."""
    options = {"env": environment(), "text": True} | options
    directory = str(options.pop("cwd", None) or "/")
    if not init.alive:
        raise LabError(f"{init.node} of lab {init.lab} has just been powered off")
    with children_in_pid_namespace_of(init.pid):
        child: subprocess.Popen[str] = subprocess.Popen(enter(init, command, directory), **options)  # type: ignore[call-overload]
    guests = _guests.setdefault((init.lab, init.node), [])
    guests[:] = [guest for guest in guests if guest.returncode is None] + [child]
    return child


def kill(inits: Sequence[Init]) -> None:
    """Power off: these processes and all that lives in their namespaces. LabError if one does not die."""
    dying = [(init, fd) for init in inits for fd in _pidfd(init)]
    try:
        for _, fd in dying:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        for init, _ in dying:  # process 1 ends after them, and cannot wait for a child of ours
            _reap(_guests, init)
        for init, fd in dying:
            _wait(init, fd)
            _reap(_born, init)
    finally:
        for _, fd in dying:
            os.close(fd)


def _reap(children: Children, of: Init) -> None:
    for child in children.pop((of.lab, of.node), []):
        child.wait(DEATH_SECONDS)


def _pidfd(init: Init) -> Iterator[int]:
    try:
        fd = os.pidfd_open(init.pid)
    except ProcessLookupError:
        return
    if init.alive:  # only now is it certain that the descriptor means the process we think of
        yield fd
    else:
        os.close(fd)


def _wait(init: Init, fd: int) -> None:
    # Process 1 ends only after every other process of its namespace has ended and been reaped.
    readable, _, _ = select.select([fd], [], [], DEATH_SECONDS)
    if not readable:
        raise LabError(
            f"{init.node} of lab {init.lab} does not die (process {init.pid}); "
            "a process started in it was not waited for by its parent, or hangs in the kernel"
        )


def last_lines(log: Path, count: int = 12) -> str:
    """The end of a log, for an error message."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n  ".join(["", *text.splitlines()[-count:]]) if text else "it said nothing"
