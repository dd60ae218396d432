"""Keeps this node prepared for tasks that see clients' own addresses: its sockets' way back, and its tasks'.

What is wanted comes from the engine's side, what is there is told to the other agents. What cannot be made
is not told, so nobody sends a client's address where the answer would be lost; it is tried again.

Ways in a task's namespace stay a while after they have ceased to be told, for connections that are there, and
when the agent ends: those that came through other nodes go on. They vanish with the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshlb.kernel import sandboxes
from meshlb.kernel.nft import NftError
from meshlb.kernel.visit import Enter
from meshlb.model import Prepared, Wanted
from meshlb.transparent import task_ways
from meshlb.transparent.answers import Answers
from meshlb.transparent.task_ways import Place

AGAIN = 2.0  # seconds until what failed is tried again
LOOK = 15.0  # seconds between two looks at what is there
GRACE = 10.0  # seconds that ways outlive what was told of them

log = logging.getLogger(__name__)
Told = Callable[[Prepared, str], None]


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
        self._wanted = Wanted()
        self._changed = asyncio.Event()
        self._last: tuple[Prepared, str] = Prepared(), ""
        self._problems: set[str] = set()

    def want(self, wanted: Wanted) -> None:
        """Prepare this, and no more."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Prepare until cancelled. Costs nothing while nothing is wanted."""
        while True:
            self._changed.clear()
            wanted = self._wanted
            self._untell(wanted)
            try:
                face, whole = await asyncio.to_thread(self._work, wanted)
                self._tell((self._prepared(), face))
            except Exception:
                log.exception("clients' own addresses are not shown because of a bug in meshlb")
                whole = False
                self._tell((Prepared(), ""))
            await self._rest(whole)

    def close(self) -> None:
        """Take this node's own way back; its sockets have gone."""
        self._answers.close()

    async def _rest(self, whole: bool) -> None:
        if not self._wanted.used and not self._tasks:
            await self._changed.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK if whole else AGAIN):
                await self._changed.wait()

    def _untell(self, wanted: Wanted) -> None:
        """First of all nobody is to use what is not wanted any more."""
        prepared, face = self._last
        tasks = prepared.tasks & {task for task, _ in wanted.tasks}
        if tasks != prepared.tasks:
            self._tell((Prepared(tasks, prepared.hosts, prepared.networks), face if wanted.used else ""))

    def _tell(self, told: tuple[Prepared, str]) -> None:
        if told != self._last:
            self._last = told
            self.told(*told)

    def _prepared(self) -> Prepared:
        """Only what holds for all its tasks: a host that some have no way to is none."""
        ready = {key: task for key, task in self._tasks.items() if task.hosts and not task.gone}
        if not ready:
            return Prepared()
        return Prepared(
            frozenset(task for task, _ in ready),
            frozenset.intersection(*(task.hosts for task in ready.values())),
            frozenset.union(*(task.networks for task in ready.values())),
        )

    def _work(self, wanted: Wanted) -> tuple[str, bool]:
        """This node's address in the ingress network, and whether all was made."""
        problems: set[str] = set()
        face = self._face(wanted, problems)
        self._find(wanted, problems)
        for key in wanted.tasks:
            if key in self._tasks:
                self._prepare(key, self._tasks[key], wanted.hosts, problems)
        left = [key for key in self._tasks if key not in wanted.tasks]
        for key in left:
            self._leave(key, self._tasks[key], problems)
        for problem in sorted(problems - self._problems):
            log.warning("%s", problem)
        self._problems = problems
        return face, not problems and not left

    def _face(self, wanted: Wanted, problems: set[str]) -> str:
        """Empty where answers would not find back."""
        if not wanted.used:
            self._answers.close()
            return ""
        path = Path(wanted.namespace)
        if not self._answers.open(path):
            problems.add(self._answers.problem)
            return ""
        try:
            for name, interface in sandboxes.interfaces(path, self._enter).items():
                host = str(interface.ip)
                if host in wanted.hosts:
                    if sandboxes.hardware(path, name, self._enter) == task_ways.hardware(host):
                        return host
                    problems.add(f"Docker gave {host} another hardware address than tasks would know it by")
        except OSError as error:
            problems.add(f"this node's own address in the ingress network is not known: {error}")
        return ""

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
            problems.add(f"the namespaces of this node's tasks cannot be looked into: {error}")
        for address in missing.keys() - found.keys():
            problems.add(f"no network namespace of this node has the address {address} of its task")

    def _known(self, path: Path, address: str) -> _Task:
        inode = path.stat().st_ino
        ends = sandboxes.interfaces(path, self._enter)
        name = next(name for name, end in ends.items() if str(end.ip) == address)
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
            problems.add(f"the task at {key[1]} cannot be shown clients' own addresses: {error}")

    def _leave(self, key: tuple[str, str], task: _Task, problems: set[str]) -> None:
        task.gone = task.gone or time.monotonic()
        if time.monotonic() < task.gone + GRACE:
            return
        try:
            task_ways.remove(task.place, task.hosts, self._enter)
        except (NftError, OSError) as error:
            problems.add(f"what was prepared for the task at {key[1]} is left in its namespace: {error}")
        del self._tasks[key]
