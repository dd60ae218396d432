"""The agent as a process: its event loop, its limits, its signals."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meshlb.descriptors import RAISE
from meshlb.errors import ConfigError

LOW_FILE_LIMIT = 8192

log = logging.getLogger(__name__)


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop: uvloop where it is installed (32-bit ARM has no wheel), else asyncio's."""
    if choice != "asyncio":
        try:
            import uvloop  # noqa: PLC0415  # optional
        except ImportError as error:
            if choice == "uvloop":
                raise ConfigError("--loop uvloop: uvloop is not installed; use --loop asyncio") from error
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; every connection takes two. Gives the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError) as error:  # a hard limit above the kernel's fs.nr_open
        log.warning("the limit of open files stays at %d: %s", soft, error)
    if 0 <= soft < LOW_FILE_LIMIT:
        log.warning(
            "only %d files may be open: a connection takes two, and so does each of a port's listening "
            "sockets, one for every worker; %s",
            soft,
            RAISE,
        )
    return soft


class Signals:
    """What signals ask for. The first SIGTERM or SIGINT asks for an end, the second for one at once.

    SIGHUP asks to look again at everything, SIGUSR2 for a replacement.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reload = asyncio.Event()
        self.upgrade = asyncio.Event()

    def terminate(self) -> None:
        """SIGTERM or SIGINT came."""
        (self.at_once if self.stop.is_set() else self.stop).set()

    def commands(self) -> dict[str, Callable[[], str]]:
        """The same for who asks at the agent's socket: by its word what is done, and a sentence about it."""
        pid = os.getpid()

        def reload() -> str:
            self.reload.set()
            return f"The agent (process {pid}) looks at everything anew"

        def upgrade() -> str:
            self.upgrade.set()
            return f"The agent (process {pid}) starts its replacement"

        return {"reload": reload, "upgrade": upgrade}

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the process's signals while the block runs; from the event loop's thread."""
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self.terminate,
            signal.SIGINT: self.terminate,
            signal.SIGHUP: self.reload.set,
            signal.SIGUSR2: self.upgrade.set,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
