"""Questions to the engine whose answers may take long: asked by a thread and on a connection of their own.

On a manager the engine asks the leader of its Swarm, which may have vanished. Whoever follows the engine
goes on meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar
from urllib.parse import quote

from meshlb.errors import EngineError
from meshlb.model import BackendState
from meshlb.swarm import events as docker_events
from meshlb.swarm import lists as docker_lists
from meshlb.swarm import view as docker_view
from meshlb.swarm.api import AnswerError, Connection, parse
from meshlb.swarm.lists import Lists
from meshlb.swarm.view import Membership

NO_MANAGER = (403, 406, 503)  # what a node that is none answers to who asks for lists

_TASKS_PATH = "/tasks?filters=" + quote(json.dumps({"desired-state": ["running"]}))

Value = TypeVar("Value")
Listed = tuple[Lists | AnswerError, Membership | None]


class Asking:
    """Asks one question after the other, in their order, from `start` to `end`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._changing, self._over = threading.Lock(), False

    def start(self, version: str) -> None:
        """Begin to ask, in this version of the API. A daemon: nothing waits for an engine that hangs."""
        self._connection.speak(version)
        threading.Thread(target=self._run, name="meshlb-lists", daemon=True).start()

    def end(self) -> None:
        """Answer what waits and what comes with an EngineError, at once; from any thread."""
        with self._changing:
            self._over = True
            self._waiting.put(None)
        self._connection.interrupt()

    def put(self, ask: Callable[[Connection], Value]) -> Future[Value]:
        """What will be known once it has been asked."""
        answer: Future[Value] = Future()
        with self._changing:
            if self._over:
                answer.set_exception(EngineError("the engine is not followed any more"))
            else:
                self._waiting.put(lambda: self._answer(answer, ask))
        return answer

    def _answer(self, answer: Future[Value], ask: Callable[[Connection], Value]) -> None:
        try:
            answer.set_result(ask(self._connection))
        except Exception as error:  # whoever has asked wants to know
            answer.set_exception(error)

    def _run(self) -> None:
        while answer_next := self._waiting.get():
            answer_next()
        self._connection.close()


class Question(Generic[Value]):
    """Asked again and again, but never twice at a time. For one thread; `answered` is called by another."""

    def __init__(self, asking: Asking, answered: Callable[[], None]) -> None:
        self._asking, self._answered = asking, answered
        self._open: Future[Value] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has been asked and the answer has not been taken."""
        return self._open is not None

    def put(self, ask: Callable[[Connection], Value], patience: float) -> None:
        """Ask, and wait so many seconds for the answer; `answered` tells of one that comes later."""
        self._open = self._asking.put(ask)
        try:
            self._open.exception(patience)
        except TimeoutError:
            self._open.add_done_callback(lambda _: self._answered())

    def take(self) -> Value | None:
        """The answer, once; None while there is none. The EngineError that it ended with."""
        answer = self._open
        if answer is None or not answer.done():
            return None
        self._open = None
        return answer.result()


def read(connection: Connection, path: str) -> object:
    """What the engine answers to GET `path`."""
    return parse(connection.get(path), path.partition("?")[0])


def membership(connection: Connection) -> Membership:
    """This node's part in the Swarm."""
    return docker_view.parse_membership(read(connection, "/info"))


def local_states(connection: Connection) -> dict[str, BackendState]:
    """The states of this node's tasks that are not up."""
    return docker_events.parse_containers(read(connection, docker_events.CONTAINERS_PATH))


def wanted(connection: Connection) -> tuple[frozenset[str], float]:
    """The ids of the tasks that Swarm wants to run, and how many seconds of a core it took to learn them."""
    began = time.thread_time()
    body = connection.get(_TASKS_PATH)
    found = docker_lists.find_wanted(body)
    if found is None:
        found = docker_lists.parse_wanted(parse(body, "/tasks"))
    return found, time.thread_time() - began


def lists(connection: Connection, *, certain: bool) -> Listed:
    """A manager's lists, or why there are none: unless it is `certain` that this is none, what it is by now.

    It may have been demoted, or the managers may have lost their quorum.
    """
    try:
        return docker_lists.parse_lists(read(connection, "/services"), read(connection, "/nodes")), None
    except AnswerError as error:
        is_refused = error.status in NO_MANAGER and not certain
        return error, membership(connection) if is_refused else None
