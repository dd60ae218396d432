"""Questions that may take long: whoever asks waits for a moment, and is told of what comes later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import FakeEngine
from waiting import eventually

from meshlb.errors import EngineError
from meshlb.swarm import asking as docker_asking
from meshlb.swarm.api import Engine, dial_unix
from meshlb.swarm.asking import Asking, Question
from meshlb.swarm.view import Membership


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "docker.sock", manager=True) as manager:
        yield manager


@pytest.fixture
def asking(fake: FakeEngine) -> Iterator[Asking]:
    path = str(fake.path)
    found = Asking(Engine(lambda: dial_unix(path), path).connection())
    found.start(fake.version)
    yield found
    found.end()


def test_an_answer_in_time_wakes_nobody(asking: Asking) -> None:
    woken = threading.Event()
    question: Question[Membership] = Question(asking, woken.set)
    assert question.take() is None
    question.put(docker_asking.membership, 10.0)
    found = question.take()
    assert found is not None
    assert found.manager
    assert not question.is_open
    assert not woken.is_set()
    assert question.take() is None, "an answer is taken once"


def test_a_late_answer_wakes_who_has_asked(fake: FakeEngine, asking: Asking) -> None:
    woken = threading.Event()
    fake.held["info"] = answered = threading.Event()
    question: Question[Membership] = Question(asking, woken.set)
    question.put(docker_asking.membership, 0.01)
    assert question.take() is None
    assert question.is_open
    answered.set()
    assert woken.wait(10)
    assert question.take() is not None


def test_nobody_waits_for_an_answer_after_the_end(fake: FakeEngine, asking: Asking) -> None:
    fake.mute = {"info"}
    under_way, waiting = (asking.put(docker_asking.membership) for _ in range(2))
    eventually(lambda: fake.count("/info"), timeout=10, what="the request")
    asking.end()
    for answer in (under_way, waiting, asking.put(docker_asking.membership)):
        assert isinstance(answer.exception(10), EngineError)
