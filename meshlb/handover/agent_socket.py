"""The agent's Unix socket: whoever has it is the agent of this node, and is asked to hand over there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from meshlb.errors import ConfigError, MeshError

OWN = Path("/run/meshlb")  # where the socket is, unless another path is wanted: nobody else has things there
ENGINE = Path("/run/docker.sock")  # tells the group where its name is not known: in a container
CONNECT = 5.0  # seconds until a running agent has accepted
_LOCK = 5.0  # seconds that others may need to do the same at this moment


class RunningError(MeshError):
    """Another agent has the socket."""


class AgentSocket:
    """The listening end. Closing it removes the file, unless it is another agent's by now."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.listener = listener
        self._path, self._inode = path, path.stat().st_ino

    def close(self) -> None:
        """From here on nobody is asked to hand over here."""
        self.listener.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
                if self._path.parent == OWN:
                    OWN.rmdir()


def connect(path: Path) -> socket.socket | None:
    """A connection to the agent that runs; None where none does. MeshError when it cannot be told."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        _connect(sock, path)
    except (FileNotFoundError, ConnectionRefusedError):  # never there, or left by one that died
        sock.close()
        return None
    except BlockingIOError:
        sock.close()
        raise RunningError(
            f"the agent at {path} does not answer: end it, then start this one again"
        ) from None
    except OSError as error:
        sock.close()
        raise ConfigError(_explained(path, error)) from None
    return sock


def _connect(sock: socket.socket, path: Path) -> None:
    """BlockingIOError when the backlog stays full."""
    sock.setblocking(False)
    end = time.monotonic() + CONNECT
    while True:
        try:
            return sock.connect(str(path))
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def claim(path: Path, *, after: bool = False) -> AgentSocket:
    """Be the agent of this node. RunningError when another one is, unless it has handed over (`after`)."""
    try:
        ours = path.parent == OWN or not path.parent.exists()
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if ours:
            _is_dockers(path.parent)
        with _locked(path.parent):
            if not after:
                _refuse_second(path)
            return _bound(path)
    except OSError as error:
        raise ConfigError(_explained(path, error)) from None


def peer(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end; of a listener, those that made it listen."""
    pid, user, _ = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, user


def named(pid: int) -> str:
    """What a process is called. Its number is 0 where it is in another container, unseen from here."""
    return f"process {pid}" if pid else "a process of another container"


def _refuse_second(path: Path) -> None:
    other = connect(path)
    if other is not None:
        with other:
            pid, _ = peer(other)
        raise RunningError(
            f"an agent runs on this node already, as {named(pid)}: start this one with --replace to "
            "take over from it without losing a connection"
        )


def _bound(path: Path) -> AgentSocket:
    """A new socket takes the path in one step, whatever is there."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(str(fresh))
        fresh.chmod(0o660 if _is_dockers(fresh) else 0o600)
        listener.listen(8)
        listener.setblocking(False)
        fresh.rename(path)
        return AgentSocket(path, listener)
    except OSError:
        listener.close()
        raise


def _is_dockers(path: Path) -> bool:
    """Whether a file of ours has become group docker's: whoever may ask the engine may ask the agent."""
    try:
        group = _dockers()
        if path.stat().st_gid != group:  # in a directory with the setgid bit it is already
            os.chown(path, -1, group)
    except (KeyError, OSError):
        return False
    return True


def _dockers() -> int:
    """The number of the group that may ask the engine. KeyError or OSError where there is none."""
    try:
        return grp.getgrnam("docker").gr_gid
    except KeyError:
        engine = ENGINE.stat()
        if engine.st_mode & stat.S_IWGRP:
            return engine.st_gid
        raise


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two agents that start at once must not both find nobody."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + _LOCK
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _explained(path: Path, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"--socket {path}: not permitted; run the agent as root, or name a path that it may write, or off"
        )
    return f"--socket {path}: {error.strerror or error}; name another path, or off"
