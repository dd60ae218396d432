"""The network namespace in which backends are reached: kept open, and reopened when its file is replaced."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from meshlb.descriptors import OUT, out


class Namespace:
    """Starts as the process's own namespace, id 0. Every other one that `use` finds gets an id of its own.

    `problem` is one sentence while the wanted namespace cannot be entered; the last good one stays in use.
    """

    def __init__(self, enter: Callable[[int], None]) -> None:
        self._enter = enter
        self._fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._own = self._identity = _identity(self._fd)
        self._made = 0
        self.id = 0
        self.problem = ""

    def use(self, path: str) -> None:
        """Takes the namespace file at `path` into use; the process's own where it is empty."""
        try:
            fd = os.open(path or "/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.problem = _cannot_open(path, error)
            return
        if _identity(fd) == self._identity:
            os.close(fd)
            self.problem = ""
            return
        self.problem = self._try(fd, path)
        if self.problem:
            os.close(fd)
        else:
            self._replace(fd)

    def duplicate(self) -> int:
        """A descriptor of the namespace in use, for someone else to own."""
        return os.dup(self._fd)

    def close(self) -> None:
        """Lets the namespace go."""
        os.close(self._fd)

    def _replace(self, fd: int) -> None:
        os.close(self._fd)
        self._fd, self._identity = fd, _identity(fd)
        if self._identity == self._own:
            self.id = 0
        else:
            self._made += 1
            self.id = self._made

    def _try(self, fd: int, path: str) -> str:
        """Enters the namespace in a thread that ends right after: going back might be refused."""
        failures: list[OSError] = []

        def attempt() -> None:
            try:
                self._enter(fd)
            except OSError as error:
                failures.append(error)

        thread = threading.Thread(target=attempt, name="meshlb-namespace")
        thread.start()
        thread.join()
        if not failures:
            return ""
        return (
            f"the network namespace {path} cannot be entered ({failures[0].strerror}): "
            "run the agent as root, or give it CAP_SYS_ADMIN"
        )


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _cannot_open(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        hint = "is Docker's ingress network there?" if Path(path).parent.is_dir() else "is dockerd running?"
        return f"the network namespace {path} is not there: {hint}"
    which = f"the network namespace {path}" if path else "the agent's own network namespace"
    if error.errno in OUT:
        return f"{which} cannot be opened: {out(error.errno)}"
    return f"{which} cannot be opened ({error.strerror}): run the agent as root"
