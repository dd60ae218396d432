"""Keeps this node prepared for tasks that see clients' own addresses: its sockets' way back, and its tasks'.

What is wanted comes from the engine's side, what is there is told to the other agents. What cannot be made
is not told, so nobody sends a client's address where the answer would be lost; the reason is, and it is
tried again.

Ways outlive what is told of them for as long as connections use them. When the agent ends, those in its
tasks' namespaces stay, as what came through other nodes goes on; they vanish with the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from meshlb.kernel import sandboxes
from meshlb.kernel.nft import NftError
from meshlb.kernel.visit import Enter
from meshlb.model import Face, Prepared, Wanted
from meshlb.text import printable
from meshlb.transparent import task_ways
from meshlb.transparent.answers import Answers, words
from meshlb.transparent.task_ways import Place

AGAIN = 2.0  # seconds until what failed is tried again, and between looks whether nft still runs
LOOK = 15.0  # seconds between two looks at what is there
GRACE = 10.0  # seconds that ways outlive at least what was told of them: until everybody has heard
TOLD = 3  # problems that are told of

log = logging.getLogger(__name__)
Told = Callable[[Prepared, Face], None]


@dataclass(slots=True)
class _Task:
    place: Place
    inode: int
    networks: frozenset[str]
    hosts: frozenset[str] = frozenset()
    gone: float = 0  # when it ceased to be wanted


class Preparing:
    """`told` hears, on the event loop, what is prepared and this node's own address in the overlay."""

    def __init__(self, enter: Enter, told: Told = lambda prepared, face: None) -> None:
        self.told = told
        self._enter = enter
        self._answers = Answers(enter)
        self._tasks: dict[tuple[str, str], _Task] = {}
        self._wanted: Wanted | None = None
        self._changed = asyncio.Event()
        self._last: tuple[Prepared, Face] | None = None
        self._problems: set[str] = set()
        self._working = threading.Lock()
        self._unused = 0.0  # since when no port is to show clients' own addresses

    def want(self, wanted: Wanted) -> None:
        """Prepare this, and no more."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Prepare until cancelled. Costs nothing while nothing is wanted."""
        await self._changed.wait()
        while True:
            self._changed.clear()
            wanted = self._wanted or Wanted()
            self._untell(wanted)
            try:
                face, pause = await asyncio.to_thread(self._locked_work, wanted)
                self._tell((self._prepared(), face))
            except Exception:
                log.exception("clients' own addresses are not shown because of a bug in meshlb")
                pause = AGAIN
                self._tell((Prepared(problem="a bug in meshlb, see its log"), Face()))
            await self._rest(wanted, pause)

    def close(self) -> None:
        """Take this node's own way back; its sockets have gone. Blocks."""
        with self._working:  # what was begun before `run` was cancelled
            self._answers.close()

    async def _rest(self, wanted: Wanted, pause: float) -> None:
        """Until something has changed; at most so many seconds where there is anything to look after."""
        if not (wanted.used or self._tasks or self._answers.is_open):
            await self._changed.wait()
        until = time.monotonic() + pause
        while not self._changed.is_set() and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, AGAIN)):
                    await self._changed.wait()
            if wanted.used and not self._answers.is_open:
                return

    def _untell(self, wanted: Wanted) -> None:
        """First of all nobody is to use what is not wanted any more."""
        if self._last is None:
            return
        prepared, face = self._last
        tasks = prepared.tasks & {task for task, _ in wanted.tasks}
        if tasks != prepared.tasks or (face.address and not wanted.used):
            self._tell((replace(prepared, tasks=tasks), face if wanted.used else Face()))

    def _tell(self, told: tuple[Prepared, Face]) -> None:
        """The first time in any case: what an earlier agent has told is believed until then."""
        if told != self._last:
            self._last = told
            self.told(*told)

    def _prepared(self) -> Prepared:
        """Only what holds for all its tasks: a host that some have no way to is none."""
        problem = printable("; ".join(sorted(self._problems)[:TOLD]))
        ready = {key: task for key, task in self._tasks.items() if task.hosts and not task.gone}
        if not ready:
            return Prepared(problem=problem)
        return Prepared(
            frozenset(task for task, _ in ready),
            frozenset.intersection(*(task.hosts for task in ready.values())),
            frozenset.union(*(task.networks for task in ready.values())),
            problem,
        )

    def _locked_work(self, wanted: Wanted) -> tuple[Face, float]:
        with self._working:
            return self._work(wanted)

    def _work(self, wanted: Wanted) -> tuple[Face, float]:
        """This node's address in the ingress network, and seconds until the next look."""
        problems: set[str] = set()
        face = self._face(wanted)
        self._find(wanted, problems)
        for key in wanted.tasks:
            if key in self._tasks:
                self._prepare(key, self._tasks[key], wanted.hosts, problems)
        for key in [key for key in self._tasks if key not in wanted.tasks]:
            self._leave(key, self._tasks[key])
        for problem in sorted(problems - self._problems):
            log.warning("%s", problem)
        self._problems = problems
        return face, AGAIN if problems or face.problem else self._until_look()

    def _until_look(self) -> float:
        """What has ceased to be wanted is looked at when its grace is over."""
        since = [task.gone for task in self._tasks.values() if task.gone] + [self._unused] * bool(
            self._unused
        )
        left = [at + GRACE - time.monotonic() for at in since]
        return min([LOOK, *(max(seconds, AGAIN) for seconds in left if seconds > 0)])

    def _face(self, wanted: Wanted) -> Face:
        """Empty where answers would not find back."""
        if not wanted.used:
            self._unused = self._unused or time.monotonic()
            if time.monotonic() >= self._unused + GRACE and not self._answers.used():
                self._answers.close()
            return Face()
        self._unused = 0.0
        path = Path(wanted.namespace)
        if not self._answers.open(path):
            return Face(problem=self._answers.problem)
        try:
            return self._own_face(path, wanted.hosts)
        except OSError as error:
            return Face(problem=f"its own address in the ingress network is not known: {words(error)}")

    def _own_face(self, path: Path, hosts: frozenset[str]) -> Face:
        for name, interface in sandboxes.interfaces(path, self._enter).items():
            host = str(interface.ip)
            if host in hosts:
                if sandboxes.hardware(path, name, self._enter) == task_ways.hardware(host):
                    self._answers.network = interface.network
                    return Face(host, self._answers.inode)
                return Face(problem=f"Docker gave {host} another hardware address than tasks know it by")
        return Face()  # gossip does not show it yet

    def _find(self, wanted: Wanted, problems: set[str]) -> None:
        for key, task in list(self._tasks.items()):
            try:
                same = task.place.path.stat().st_ino == task.inode
            except OSError:
                same = False
            if not same:  # the container has ended
                del self._tasks[key]
        missing = {address: (task, address) for task, address in wanted.tasks}
        missing = {address: key for address, key in missing.items() if key not in self._tasks}
        if not missing:
            return
        found: dict[str, Path] = {}
        try:
            found = sandboxes.find(Path(wanted.namespace).parent, missing, self._enter)
            for address, path in found.items():
                self._tasks[missing[address]] = self._known(path, address)
        except OSError as error:
            problems.add(f"the namespaces of its tasks cannot be looked into: {words(error)}")
        for address in missing.keys() - found.keys():
            problems.add(f"no network namespace has the address {address} of its task")

    def _known(self, path: Path, address: str) -> _Task:
        inode = path.stat().st_ino
        ends = sandboxes.interfaces(path, self._enter)
        name = next((name for name, end in ends.items() if str(end.ip) == address), "")
        if not name:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))  # it has just ended
        networks = frozenset(str(end.network) for end in ends.values())
        return _Task(Place(path, name, ends[name].network), inode, networks)

    def _prepare(self, key: tuple[str, str], task: _Task, hosts: frozenset[str], problems: set[str]) -> None:
        """A host that gossip has lost for a while is not forgotten: its connections go on."""
        task.gone = 0
        wanted = task.hosts | hosts
        if wanted == task.hosts:
            return
        try:
            task_ways.prepare(task.place, wanted, task.hosts, self._enter)
            task.hosts = wanted
        except (NftError, OSError) as error:
            task.hosts = frozenset()
            problems.add(f"the task at {key[1]} cannot be prepared: {words(error)}")

    def _leave(self, key: tuple[str, str], task: _Task) -> None:
        task.gone = task.gone or time.monotonic()
        if time.monotonic() < task.gone + GRACE or task_ways.used(task.place, self._enter):
            return
        try:
            task_ways.remove(task.place, task.hosts, self._enter)
        except (NftError, OSError) as error:
            log.warning(
                "what was prepared for the task at %s is left in its namespace: %s", key[1], words(error)
            )
        del self._tasks[key]
