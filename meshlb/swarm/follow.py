"""One session with one engine: everything listed once, then kept current until it fails or is ended.

Three threads: the caller of `run` polls, one daemon thread reads the event stream, one asks for what may take
long; both wake the first. State is the polling thread's alone; events reach it through a bounded queue whose
overflow only means "list again".
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

from meshlb import thrift
from meshlb.errors import EngineError
from meshlb.model import BackendState, Desired, Snapshot, Standing, Wanted
from meshlb.swarm import asking, snapshots
from meshlb.swarm import events as docker_events
from meshlb.swarm import lists as docker_lists
from meshlb.swarm import view as docker_view
from meshlb.swarm.api import AnswerError, Connection, Engine, parse
from meshlb.swarm.asking import NO_MANAGER, Asking, Listed, Question
from meshlb.swarm.events import Event, Marks
from meshlb.swarm.lists import Lists
from meshlb.swarm.missing import Missing
from meshlb.swarm.targets import Ports, Targets
from meshlb.swarm.view import Membership, View

LISTS_EVERY = 10.0  # seconds between a manager's lists when no event asks for them
QUIET = 2.0  # seconds without questions after one that was not answered
TASKS_EVERY = 0.25  # seconds at least between its lists, and those of tasks while they may change:
TASKS_REST = 20  # times what the last one cost us, but not so long that a task's end would be missed:
TASKS_SLOWEST = 1.5  # seconds; Swarm takes three from its decision to the signal
TASKS_STIR = 15.0  # so long after a service or a node did, and through every rolling update
PATIENCE = 0.25  # seconds that a look waits for what it has asked for; later answers are for later looks
FIRST_PATIENCE = (1.0, 6.0)  # the first look does: where lists of before are known, and where nothing is
MEMBERSHIP_EVERY = 60.0  # seconds between looks at who the managers are
CATCH_UP = 60.0  # seconds that an engine which has come back may need to hear of the others (37 were seen)
HOT = 1.0  # seconds after an event in which the view is asked for more often:
HOT_INTERVAL = 0.05  # gossip follows an event by a tenth of a second
REST, HOT_REST = 40, 4  # times what a look cost us, until the next; the engine it costs thrice as much
SLOWEST, STIRRED = 2.0, 0.5  # seconds between two looks, however much they cost; while tasks may change
SHORTEST = 0.02  # seconds between two polls, whatever happens
WAITING_EVENTS = 1000
EVENTS_AGAIN = (0.25, 5.0)  # seconds before the event stream is asked for again

NO_INGRESS = "no ingress network: on a manager, docker network create --ingress --driver overlay ingress"

_NSFS = Path("/proc/self/ns/net").stat().st_dev  # the file system that namespaces are files of
_NETWORKS_PATH = "/networks?filters=" + quote(json.dumps({"scope": ["swarm"]}))


class NotInSwarm(EngineError):  # noqa: N818  # a state, and the only one that empties the table
    """The engine answers and says that this node is in no swarm."""


class Doubt(EngineError):  # noqa: N818  # a reason to look again
    """What the engine says on this connection may be its last words: ask anew before believing it.

    A dockerd that shuts down closes its listener, then leaves the swarm's gossip, and on connections from
    before it goes on answering, with an empty network and "inactive".
    """


class NotReady(EngineError):  # noqa: N818  # a state, not a failure
    """The engine answers, but has no ingress network to follow."""


@dataclass
class Known:
    """What outlives a session: the last view, a manager's lists, the namespace, who this node is."""

    membership: Membership | None = None
    view: View | None = None
    lists: Lists | None = None
    advice: Lists | None = None  # another agent's, from a manager
    namespace_id: int = 0
    targets: Targets = field(default_factory=Targets)
    host: str = ""  # where gossip has this node's own tasks
    paths: Mapping[str, str] = field(default_factory=dict)  # nodes by the addresses for their data


def pause(interval: float, cost: float, *, hot: bool = False, stirring: bool = False) -> float:
    """Seconds until the next look, after one that cost so many seconds of a core.

    Of a large Swarm on a small machine they are further apart.
    """
    least, rest = (HOT_INTERVAL, HOT_REST) if hot else (interval, REST)
    return thrift.pause(cost, least, rest, STIRRED if stirring else SLOWEST)


def tasks_pause(cost: float) -> float:
    """Seconds until tasks that may change are asked for again, where that took so many seconds of a core."""
    return thrift.pause(cost, TASKS_EVERY, TASKS_REST, TASKS_SLOWEST)


class Session:
    """Follows one engine. `publish` gets a snapshot whenever an input of it has changed."""

    def __init__(
        self,
        engine: Engine,
        known: Known,
        publish: Callable[[Snapshot], None],
        stand: Callable[[Standing], None] = lambda standing: None,
        recall: Callable[[str], Desired | None] = lambda root: None,
        *,
        namespace: Path,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known, self._publish, self._stand, self._namespace = known, publish, stand, namespace
        self._recall = recall
        self._interval, self._clock = interval, clock
        self._polling, self._listening = engine.connection(), engine.connection()
        self._over, self._wake = threading.Event(), threading.Event()
        self._asking = Asking(engine.connection())
        self._listing: Question[Listed] = Question(self._asking, self._wake.set)
        self._wanting: Question[tuple[frozenset[str], float]] = Question(self._asking, self._wake.set)
        self._joining: Question[Membership] = Question(self._asking, self._wake.set)
        self._checking: Question[dict[str, BackendState]] = Question(self._asking, self._wake.set)
        self._events: deque[Event] = deque()
        self._marks = Marks()
        self._network = ""
        self._fingerprint: tuple[object, ...] = ()
        self._hosts: Mapping[str, str] = {}
        self._looked_at: Lists | None = None
        self._showing: frozenset[str] = frozenset()  # services, of what was looked at last
        self._view = self._named = View()  # as the engine last gave it
        self._names: Mapping[str, str] = {}  # nodes' own addresses, by those that it gives
        self._fresh = View()  # with these
        self._shown = self._steady = (
            View()
        )  # the same with the tasks that it misses; with its ports kept as well
        self._missing = Missing()
        self._earlier: View | None = None  # what was known before this session, until gossip has caught up
        self._catch_up_until = 0.0
        self._lists_due = self._lists_asked = 0.0
        self._tasks_due = self._tasks_asked = self._stir_until = 0.0
        self._tasks_cost = 0.0  # seconds of a core
        self._quiet_until = 0.0  # the leader has not answered
        self._asked_about = View()  # what was shown when tasks were asked for
        self._behind = True  # a manager's lists, until this session has them
        self._membership_due = 0.0
        self._advised = threading.Event()
        self._ports = Ports()
        self._standing = Standing()
        self._containers_due = 0.0
        self._since: list[Event] = []  # what containers have done since they were asked for
        self._hot_until = 0.0
        self._look_cost = 0.0  # seconds of a core
        self.events_problem = ""
        self.lists_problem = ""
        self.containers_problem = ""

    @property
    def problem(self) -> str:
        """One sentence about what works only half, empty when all is well."""
        return self.lists_problem or self.events_problem or self.containers_problem

    def run(self, started: Callable[[], None]) -> None:
        """Follow until `end` is called; EngineError when the engine fails. `started` says that it works."""
        version = self._polling.negotiate()
        self._polling.speak(version)
        self._listening.speak(version)
        self._learn_membership(asking.membership(self._polling))
        self._remember_advice()
        self._network = docker_view.find_ingress(asking.read(self._polling, _NETWORKS_PATH))
        if not self._network:
            raise NotReady(NO_INGRESS)
        self._earlier, self._catch_up_until = self._known.view, self._clock() + CATCH_UP
        listener = threading.Thread(target=self._listen, name="meshlb-events", daemon=True)
        self._asking.start(version)
        self._tick()
        started()
        listener.start()
        while not self._over.is_set():
            self._wait()
            try:
                self._tick()
            except (NotInSwarm, NotReady) as state:
                raise Doubt(str(state)) from state

    def end(self) -> None:
        """End the session from any thread: requests under way fail at once."""
        self._over.set()
        self._wake.set()
        self._polling.interrupt()
        self._listening.interrupt()
        self._asking.end()

    def refresh(self) -> None:
        """Look again at everything, now; from any thread."""
        self._again()

    def look(self) -> None:
        """There is something new to take; from any thread."""
        self._wake.set()

    def advise(self, desired: Desired) -> None:
        """Take what a manager knows, from any thread. It counts where this node is none itself."""
        self._known.advice = docker_lists.from_desired(desired)
        self._advised.set()
        self._wake.set()

    def close(self) -> None:
        """Give the polling socket back. For the thread that called `run`; the listener closes its own."""
        self.end()
        self._polling.close()

    def _learn_membership(self, membership: Membership) -> None:
        self._known.membership = membership
        if membership.state == "inactive":
            raise NotInSwarm("this node is not in a swarm: run meshlb init or meshlb join")
        if membership.state == "locked":
            raise NotReady("this node's swarm is locked: run docker swarm unlock")
        if membership.state == "error":
            raise NotReady(f"this node's swarm has failed ({membership.error}); see journalctl -u docker")
        if membership.state != "active":
            raise NotReady(
                "this node is not a working part of its swarm yet; see docker node ls on a manager"
            )

    def _ask_membership(self, now: float) -> None:
        """What is known stays where the engine does not answer: the leader that it asks may have vanished."""
        if now >= self._membership_due and not self._joining.is_open:
            if self._membership_due:  # `run` has just asked
                self._joining.put(asking.membership, PATIENCE)
            self._membership_due = now + MEMBERSHIP_EVERY
        try:
            membership = self._joining.take()
        except EngineError as error:
            self.lists_problem = f"who the managers are may be out of date: {error}"
            return
        if membership:
            self._learn_membership(membership)

    def _remember_advice(self) -> None:
        """Until a manager is heard, what was heard last before this start is the best there is."""
        if self._known.advice is None and self._known.membership is not None:
            recalled = self._recall(self._known.membership.root)
            old = replace(recalled, old=True) if recalled else None
            self._known.advice = docker_lists.from_desired(old) if old else None

    def _wait(self) -> None:
        now = self._clock()
        # Where no manager tells them many looks together tell what ports a service has.
        stirring = self._is_stirring(now) or not self._tells_ports
        seconds = pause(self._interval, self._look_cost, hot=now < self._hot_until, stirring=stirring)
        if self._wake.wait(seconds):
            time.sleep(SHORTEST)  # a storm of events is one poll

    def _tick(self) -> None:
        """Bring everything up to date, and publish if anything may have changed."""
        self._wake.clear()
        now = self._clock()
        changed = self._take_events(now)
        changed |= self._ask_containers(now)
        began = time.thread_time()
        body = self._view_body()
        fingerprint = docker_view.fingerprint(body)
        self._look_cost = time.thread_time() - began
        if fingerprint != self._fingerprint:
            self._view = self._checked(docker_view.parse_view(parse(body, "the ingress network")))
            changed = True
        changed |= self._name_nodes()
        changed |= self._look_for_missing(now)
        changed |= self._ask_lists(now) | self._ask_tasks(now) | self._take_advice()
        self._ask_membership(now)
        self._take_standing()
        changed |= self._remember_ports(now)
        changed |= self._catching_up(now) | self._prune(now) | self._look_at_namespace()
        if changed or not self._fingerprint:
            self._publish(self._combined())
        self._fingerprint = fingerprint  # last: what failed half-way is done again

    def _view_body(self) -> bytes:
        try:
            return self._polling.get(f"/networks/{self._network}?verbose=true")
        except AnswerError as error:
            if error.status != 404:
                raise
            raise NotReady(NO_INGRESS) from error  # and the next session finds out why

    def _checked(self, view: View) -> View:
        """`view`, unless the engine has left gossip or not joined it: then it shows an empty network."""
        if not view.peers:
            raise NotReady("the engine has not joined the swarm's gossip yet; see journalctl -u docker")
        return view

    def _name_nodes(self) -> bool:
        """Whether nodes are known by other addresses now; of the view itself that is known already."""
        own, view = self._own_address, self._view
        names = {data: node for data, node in self._known.paths.items() if data != own}
        host = self._known.host = view.own or self._known.host
        if own and host not in ("", own):
            names[host] = own
        before, self._names = self._names, names
        if names != before:
            self._missing.rename(names)
            self._earlier = docker_view.renamed(self._earlier, names) if self._earlier else None
        elif view is self._named:
            return False
        self._named, self._fresh = view, docker_view.renamed(view, names)
        return names != before

    def _take_events(self, now: float) -> bool:
        """Apply what the listener has left; True if a mark may have changed."""
        marked = False
        while self._events:
            event = self._events.popleft()
            self._hot_until = now + HOT
            if event.task:
                self._marks.apply(event, now)
                self._keep(event)
                marked = True
            else:
                self._stir(now)
        return marked

    def _stir(self, now: float) -> None:
        """Services or nodes change: ask soon, but a hundred events are few questions."""
        self._lists_due = min(self._lists_due, max(now, self._lists_asked + TASKS_EVERY))
        tasks = max(now, self._tasks_asked + tasks_pause(self._tasks_cost))
        self._tasks_due = min(self._tasks_due, tasks)
        self._stir_until = now + TASKS_STIR

    def _keep(self, event: Event) -> None:
        """Keep what has happened while containers are being listed: the list may be older."""
        if self._checking.is_open and len(self._since) < WAITING_EVENTS:
            self._since.append(event)
        elif self._checking.is_open:
            self._containers_due = 0.0

    def _ask_containers(self, now: float) -> bool:
        if now >= self._containers_due and not self._checking.is_open:
            self._containers_due = math.inf
            self._since.clear()
            self._checking.put(asking.local_states, self._patience)
        try:
            states = self._checking.take()
        except EngineError as error:
            self._containers_due = min(self._containers_due, self._clock() + LISTS_EVERY)
            self.containers_problem = f"the health of local tasks is known late: {error}"
            return False
        if states is None:
            return False
        self.containers_problem = ""
        self._marks.replace(states, now)
        for event in self._since:
            self._marks.apply(event, now)
        return True

    def _ask_lists(self, now: float) -> bool:
        """Refresh a manager's lists when due, or when they and gossip show other services."""
        lists = self._known.lists
        due = min(self._lists_due, self._lists_asked + HOT) if self._differs(lists) else self._lists_due
        if now >= max(due, self._quiet_until) and not self._listing.is_open:
            self._lists_asked, self._lists_due = now, now + LISTS_EVERY
            member = self._known.membership
            certain = lists is None and member is not None and not member.manager
            self._listing.put(partial(asking.lists, certain=certain), self._patience)
        try:
            listed = self._listing.take()
        except EngineError as error:
            self._behind = True
            # The leader that the engine asks may have vanished. Whether the engine has, the next look tells.
            self._quiet_until = self._clock() + QUIET
            self.lists_problem = f"ports and labels may be out of date: {error}"
            return False
        return listed is not None and self._take_lists(*listed)

    def _take_lists(self, new: Lists | AnswerError, membership: Membership | None) -> bool:
        if membership:
            self._learn_membership(membership)
        if isinstance(new, AnswerError):
            return self._without_lists(new)
        self.lists_problem, self._behind = "", False
        lists = self._known.lists
        carried = docker_lists.carry_lists(lists, new, self._shown)
        self._known.lists = replace(carried, stopping=lists.stopping if lists else frozenset())
        return self._known.lists != lists

    def _differs(self, lists: Lists | None) -> bool:
        """Whether gossip shows a service that a manager's lists lack, or no more of one that was removed."""
        fresh, shown = ({service.name for service in view.services} for view in (self._fresh, self._shown))
        return lists is not None and bool(fresh - lists.services.keys() or lists.carried - shown)

    def _ask_tasks(self, now: float) -> bool:
        """On a manager, and while tasks may change: which of them are about to be stopped."""
        is_due = self._known.lists is not None and now >= max(self._tasks_due, self._quiet_until)
        if is_due and not self._wanting.is_open:
            pause = tasks_pause(self._tasks_cost) if self._is_stirring(now) else LISTS_EVERY
            self._tasks_asked, self._tasks_due = now, now + pause
            self._asked_about = self._fresh
            self._wanting.put(asking.wanted, self._patience)
        try:
            wanted = self._wanting.take()
        except EngineError as error:
            if not isinstance(error, AnswerError):
                self._tasks_due = self._clock() + QUIET
            self.lists_problem = f"tasks that are about to stop are known late: {error}"
            return False
        return wanted is not None and self._take_wanted(*wanted)

    def _take_wanted(self, wanted: frozenset[str], cost: float) -> bool:
        """Of tasks that were not shown yet when this was asked, the answer says nothing."""
        self._tasks_cost = cost
        lists = self._known.lists
        if lists is None:
            return False
        stopping = docker_lists.stopping(self._asked_about, lists, wanted)
        self._known.lists = replace(lists, stopping=stopping)
        return stopping != lists.stopping

    def _is_stirring(self, now: float) -> bool:
        """Whether this manager's tasks may change now."""
        lists = self._known.lists
        return lists is not None and (lists.updating or now < self._stir_until)

    def _take_advice(self) -> bool:
        if not self._advised.is_set():
            return False  # not cleared: what is set from now on is for the next time
        self._advised.clear()
        return True

    def _take_standing(self) -> None:
        """Tell the channel between agents where this node stands, when that has changed."""
        membership, lists = self._known.membership, self._known.lists
        if membership is None:
            return
        desired = docker_lists.to_desired(lists, self._behind) if lists else None
        earlier = self._earlier.peers if self._earlier else ()  # gossip takes a while to show them again
        peers = tuple(sorted({node.address for node in (*self._shown.peers, *earlier)}))
        states = dict(self._marks.states())
        standing = Standing(
            membership.root,
            self._own_address,
            membership.managers,
            peers,
            desired,
            states,
            self._hosts,
            os.fspath(self._namespace.with_name(f"1-{self._network[:10]}")),  # libnetwork's name for it
            self._missing.lost,
            self._wanted(),
            {node: data for data, node in self._names.items()},
        )
        if standing != self._standing:
            self._standing = standing
            self._stand(standing)

    def _wanted(self) -> Wanted | None:
        """What is to be prepared here, so that tasks see clients' own addresses; None while nobody knows."""
        lists = self._lists
        if lists is None:
            return None
        if lists is not self._looked_at:
            self._looked_at, self._showing = lists, docker_lists.showing(lists.services)
        if not self._showing:
            return Wanted()
        services = (service for service in self._shown.services if service.name in self._showing)
        own = (task for service in services for task in service.tasks if task.node == self._own_address)
        tasks = tuple(sorted((task.id, task.address) for task in own))
        own_id = self._known.namespace_id
        return Wanted(True, tasks, self._fresh.ingress, os.fspath(self._namespace), own_id)

    def _look_for_missing(self, now: float) -> bool:
        """Whether what gossip has ceased to show is something else now."""
        before, self._shown = self._shown, self._missing.remember(self._fresh, self._own_address, now)
        if self._shown == before:
            return False
        self._hosts = docker_view.hosts(self._shown)
        return True

    def _remember_ports(self, now: float) -> bool:
        """Where no manager tells the ports, keep those that gossip shows now and then."""
        if self._tells_ports:
            self._steady = self._shown
            return False
        before, self._steady = self._steady, self._ports.remember(self._shown, now)
        return self._steady != before

    @property
    def _lists(self) -> Lists | None:
        """What managers know: by ourselves, or by advice."""
        return self._known.lists or self._known.advice

    @property
    def _tells_ports(self) -> bool:
        """Whether managers tell what ports services have now."""
        return self._lists is not None and not self._lists.old

    def _without_lists(self, error: AnswerError) -> bool:
        """A worker has no lists; a manager that cannot give them keeps the last."""
        had = self._known.lists
        if error.status in NO_MANAGER and not self._is_manager():
            self.lists_problem = ""
            self._known.lists = None
        else:
            self._behind = True
            self.lists_problem = f"ports and labels may be out of date: {error}"
        return self._known.lists != had

    def _is_manager(self) -> bool:
        membership = self._known.membership
        return membership is not None and membership.manager

    def _catching_up(self, now: float) -> bool:
        """Whether the earlier view has just ceased to matter."""
        earlier = self._earlier
        if earlier is None:
            return False
        waiting = {task.node for service in earlier.services for task in service.tasks} - {
            self._own_address,
            "",
        }
        if now < self._catch_up_until and waiting - self._fresh.heard:
            return False
        self._earlier = None
        return True

    def _prune(self, now: float) -> bool:
        before = self._marks.states()
        if not before:
            return False
        shown = {task.id for service in self._fresh.services for task in service.tasks}
        self._marks.prune(shown, now)
        return self._marks.states() != before

    def _look_at_namespace(self) -> bool:
        """Note the namespace's inode; while it is not there (the engine restarts) the last one stays."""
        with contextlib.suppress(OSError):
            found = self._namespace.stat()
            # dockerd first creates a plain file and then mounts the namespace on it.
            if found.st_dev == _NSFS and found.st_ino != self._known.namespace_id:
                self._known.namespace_id = found.st_ino
                return True
        return False

    def _combined(self) -> Snapshot:
        view, known = self._steady, self._known
        if self._earlier is not None:
            view = snapshots.carry_tasks(self._earlier, view, self._own_address, self._lists)
        known.view = view
        membership = known.membership or Membership("")
        namespace = (os.fspath(self._namespace), known.namespace_id)
        result = snapshots.snapshot(view, self._lists, membership.node, self._marks.states(), namespace)
        result = replace(
            result, services=known.targets.remember(result.services, view, told=self._tells_ports)
        )
        if self._clock() >= self._catch_up_until:
            unnamed = docker_view.unnamed(self._shown, self._own_address) if self._names else ()
            result = replace(result, problems=(*result.problems, *unnamed))
        if known.namespace_id:
            return result
        missing = (
            f"{self._namespace} is not there: the agent needs the host's /run/docker/netns to reach tasks"
        )
        return replace(result, problems=(*result.problems, missing))

    @property
    def _own_address(self) -> str:
        return self._known.membership.node.address if self._known.membership else ""

    @property
    def _patience(self) -> float:
        """Seconds to wait for an answer: the first snapshot had better be right."""
        if self._fingerprint:
            return PATIENCE
        with_lists, without = FIRST_PATIENCE
        return without if self._lists is None else with_lists

    def _listen(self) -> None:
        """The listener's thread: the event stream, again and again until the session is over."""
        delay = EVENTS_AGAIN[0]
        while not self._over.is_set():
            try:
                self._hear(self._listening)
                delay = EVENTS_AGAIN[0]
                self.events_problem = "the engine ended its event stream; changes are seen by polling alone"
            except EngineError as error:
                self.events_problem = f"changes are seen by polling alone: {error}"
            self._over.wait(delay)
            delay = min(delay * 2, EVENTS_AGAIN[1])
        self._listening.close()

    def _hear(self, connection: Connection) -> None:
        lines = connection.lines(docker_events.PATH)
        self.events_problem = ""
        self._again()  # what happened before the stream began is in the lists alone
        for line in lines:
            event = docker_events.parse_event(line)
            if event is None:
                continue
            if len(self._events) < WAITING_EVENTS:
                self._events.append(event)
                self._wake.set()
            else:
                self._again()

    def _again(self) -> None:
        self._lists_due = self._tasks_due = self._quiet_until = self._containers_due = 0.0
        self._wake.set()
