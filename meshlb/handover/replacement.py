"""An agent's own replacement: started by it, from the code that is on disk now."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping

from meshlb.errors import MeshError
from meshlb.handover import environment

LONGEST = 60.0  # seconds that it may need to take over
PATIENCE = 10.0  # seconds until the process is there
# The new agent's parent ends at once, so that it is the service manager's child, whom its end is told.
_START = """
import os, sys
told = int(sys.argv[1])
os.set_inheritable(told, False)
os.write(told, b"%d" % os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ))
"""


log = logging.getLogger(__name__)


class ReplacementError(MeshError):
    """The replacement cannot be started, or has ended before it took over."""


def command(arguments: Iterable[str] = tuple(sys.orig_argv)) -> list[str]:
    """This process's command line, and --replace."""
    _, *rest = arguments
    return [sys.executable, *rest, *([] if "--replace" in rest else ["--replace"])]


class Upgrade:
    """Starts this agent's replacement when it is asked to. That takes over as any new agent does."""

    def __init__(self, asked: asyncio.Event) -> None:
        self.pid = 0  # of the last one that was started
        self._asked = asked
        self._failed = set[asyncio.Future[str]]()  # who waits to hear of it
        self._from_file: dict[str, str] = {}  # what the unit's file had said when this agent began
        with contextlib.suppress(OSError):
            self._from_file = environment.from_file(os.environ)

    async def run(self) -> None:
        """Start one each time; what goes wrong is told, and this agent serves on."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                self.pid = await start(command(), self._from_file)
                log.info("process %d starts, to take over", self.pid)
                await ended(self.pid, LONGEST)
                self._fail("the new agent has not taken over, the log says why")
            except MeshError as error:
                self._fail(str(error))

    async def failure(self) -> str:
        """Why the next one to be started has not taken over, once that is so."""
        failed = asyncio.get_running_loop().create_future()
        self._failed.add(failed)
        try:
            return str(await failed)
        finally:
            self._failed.discard(failed)

    def _fail(self, why: str) -> None:
        sentence = f"{why}; process {os.getpid()} serves on"
        log.error("%s", sentence)
        for each in self._failed:
            if not each.done():
                each.set_result(sentence)


async def start(words: list[str], from_file: Mapping[str, str]) -> int:
    """Start it, in our environment but for what the unit's file said before; its process id."""
    try:
        return await asyncio.to_thread(_started, words, from_file)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ReplacementError(f"a new agent cannot be started: {error}") from None


def _started(words: list[str], from_file: Mapping[str, str]) -> int:
    own = environment.renewed(os.environ, from_file)
    hear, tell = os.pipe2(os.O_CLOEXEC)
    try:
        helper = [sys.executable, "-I", "-S", "-c", _START, str(tell), *words]
        subprocess.run(
            helper, stdin=subprocess.DEVNULL, pass_fds=[tell], timeout=PATIENCE, check=True, env=own
        )
        return int(os.read(hear, 100))
    finally:
        os.close(hear)
        os.close(tell)


async def ended(pid: int, seconds: float) -> None:
    """Wait until a process has ended; it is killed when it has not in so many seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if (
            error.errno != errno.ESRCH
        ):  # kernels before 5.3, and those that forbid it, tell nothing of its end
            await asyncio.sleep(seconds)
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, over.set)
    try:
        async with asyncio.timeout(seconds):
            await over.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
