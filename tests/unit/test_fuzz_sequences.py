"""What a fuzzer of single inputs cannot reach: what is remembered from one to the next."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from meshlb.model import BackendState, Port, Service
from meshlb.peers.message import Ledger, Version
from meshlb.swarm.events import PATIENCE, Event, Marks
from meshlb.swarm.targets import PORTS_STAY, Ports
from meshlb.swarm.view import View

versions = st.builds(Version, st.sampled_from("abc"), st.integers(0, 5))


@given(st.lists(st.tuples(st.sampled_from("12"), versions), max_size=60))
def test_no_sequence_of_messages_is_news_twice_or_turns_back(told: list[tuple[str, Version]]) -> None:
    ledger = Ledger()
    for sender in "12":
        heard = [version for of, version in told if of == sender]
        news = [version for version in heard if ledger.is_news(sender, version)]
        assert len(set(news)) == len(news)
        epochs = [version.epoch for version in news]
        assert sorted(set(epochs), key=epochs.index) == [
            epoch for at, epoch in enumerate(epochs) if not at or epochs[at - 1] != epoch
        ], "an agent that was replaced is not heard again"
        for one, next_one in pairwise(news):
            assert one.epoch != next_one.epoch or one.count < next_one.count


@given(st.lists(st.tuples(st.sampled_from("123456"), versions), max_size=60))
def test_the_ledger_never_grows_beyond_its_bound(told: list[tuple[str, Version]]) -> None:
    ledger = Ledger(senders=3, retired=1)
    for sender, version in told:
        ledger.is_news(sender, version)
        assert len(ledger._newest) <= 3
        assert all(len(gone) <= 1 for _, gone in ledger._newest.values())


looks = st.lists(
    st.tuples(
        st.floats(0, PORTS_STAY),
        st.dictionaries(st.sampled_from(["a", "b"]), st.frozensets(st.integers(1, 3)), max_size=2),
    ),
    min_size=1,
    max_size=12,
)


def view_of(shown: dict[str, frozenset[int]]) -> View:
    services = (
        Service("", name, tuple(Port(number, number) for number in sorted(shown[name])), ())
        for name in sorted(shown)
    )
    return View(tuple(services))


@given(looks)
def test_ports_are_kept_as_long_as_they_should_whatever_comes_between(
    looked: list[tuple[float, dict[str, frozenset[int]]]],
) -> None:
    ports, now, seen = Ports(), 0.0, dict[tuple[str, int], float]()
    for wait, shown in looked:
        now += wait
        told = {
            (service.name, port.published)
            for service in ports.remember(view_of(shown), now).services
            for port in service.ports
        }
        current = {(name, number) for name, numbers in shown.items() for number in numbers}
        taken = {number for _, number in current}  # by whom it is shown now
        seen = {key: at for key, at in seen.items() if now - at < PORTS_STAY and key[1] not in taken}
        seen |= dict.fromkeys(current, now)
        assert told == set(seen)


events = st.builds(
    Event,
    st.sampled_from(
        ["start", "kill", "die", "destroy", "health_status: unhealthy", "health_status: healthy"]
    ),
    st.sampled_from("tu"),
    st.sampled_from(["", "1", "9", "15"]),
)


@given(st.lists(st.tuples(st.floats(0, PATIENCE / 2), events), max_size=30))
def test_marks_only_get_worse_until_a_start_a_recovery_or_the_end_of_patience(
    happened: list[tuple[float, Event]],
) -> None:
    order = [BackendState.UP, BackendState.DRAINING, BackendState.DOWN]
    marks, now = Marks(), 0.0
    for wait, event in happened:
        now += wait
        marks.prune("tu", now)
        before = marks.states().get(event.task, BackendState.UP)
        others = {task: state for task, state in marks.states().items() if task != event.task}
        marks.apply(event, now)
        after = marks.states().get(event.task, BackendState.UP)
        if event.action not in ("start", "health_status: healthy"):
            assert order.index(after) >= order.index(before)
        if event.action == "start":
            assert after is BackendState.UP
        assert others == {task: state for task, state in marks.states().items() if task != event.task}
    marks.prune("", now)
    assert not marks.states()
