"""Who is silent: by a clock of the test's own, with hosts that answer as the test likes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from meshlb.peers import watch as peer_watch
from meshlb.peers.watch import DEAD_AFTER, DIALLING, GONE_AFTER, KEEPALIVE_SILENT, Watch

ONE, TWO, SIX = "10.0.0.1", "10.0.0.2", "fd00::6"
TICK = 0.125


class World:
    """Hosts: those in `up` answer; those in `deaf` answer dials alone. Half of the echoes may get lost."""

    def __init__(self, *up: str) -> None:
        self.up, self.deaf, self.lossy = set(up), set[str](), False
        self.now, self.asked, self.dialled = 100.0, 0, 0
        self.ages: dict[str, float] = {}
        self._echoes: set[str] = set()
        self._dials: dict[str, float] = {}
        self.watch = Watch(self, self, self.ages.get)
        self.watch.follow((ONE, TWO, SIX))

    def ask(self, addresses: Iterable[str]) -> None:
        self.asked += 1
        if self.lossy and self.asked % 2:
            return
        self._echoes |= {address for address in addresses if address in self.up - self.deaf}

    def answers(self) -> set[str]:
        found, self._echoes = self._echoes, set()
        return found

    def start(self, address: str, now: float) -> None:
        self.dialled += address not in self._dials
        self._dials.setdefault(address, now)

    def stop(self, address: str) -> None:
        self._dials.pop(address, None)

    def results(self, now: float) -> dict[str, bool]:
        over = {
            a: a in self.up for a, since in self._dials.items() if a in self.up or now - since >= DIALLING
        }
        for address in over:
            del self._dials[address]
        return over

    def close(self) -> None:
        """Nothing is open."""

    def live(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += TICK * (2 if self.watch.calm else 1)
            self.watch.tick(self.now)

    def meet(self) -> None:
        """Every node that is up answers a connection."""
        for address in self.up:
            self.watch.answered(address)


def until_suspected(world: World, address: str) -> float:
    began = world.now
    while address not in world.watch.suspected:
        world.live(TICK)
        assert world.now < began + 10
    return world.now - began


@pytest.mark.parametrize("phase", range(8))
def test_a_node_that_falls_silent_is_suspected_within_a_second_and_back_at_once(phase: int) -> None:
    world = World(ONE, TWO)
    world.meet()
    world.live(5 + phase * TICK)
    world.up.discard(TWO)
    assert until_suspected(world, TWO) < 1.0
    assert world.watch.suspected == {TWO}
    world.up.add(TWO)
    world.live(0.5)
    assert not world.watch.suspected


def test_a_node_that_stays_silent_is_dead_until_it_answers() -> None:
    world = World(ONE, TWO)
    world.meet()
    world.live(1)
    world.up.discard(TWO)
    until_suspected(world, TWO)
    world.live(DEAD_AFTER - 2 * TICK)
    assert not world.watch.dead
    world.live(3 * TICK)
    assert world.watch.dead == {TWO}
    world.up.add(TWO)
    world.live(0.5)
    assert not world.watch.dead | world.watch.suspected


def test_who_has_never_answered_a_connection_is_never_suspected() -> None:
    world = World(ONE)
    world.live(5)
    world.up.clear()
    world.live(5)
    assert not world.watch.suspected


def test_a_single_echo_that_is_lost_is_nothing() -> None:
    world = World(ONE)
    world.meet()
    world.live(1)
    world.lossy = True
    world.live(20)
    assert not world.watch.suspected
    assert world.dialled == 0


def test_a_node_that_answers_no_echoes_any_more_is_dialled_and_not_suspected() -> None:
    world = World(ONE)
    world.meet()
    world.live(1)
    world.deaf.add(ONE)
    world.live(5)
    assert not world.watch.suspected
    assert world.dialled == 1, "from now on its connection counts"


@pytest.mark.parametrize("address", [ONE, SIX])
def test_without_echoes_the_age_of_the_connection_counts(address: str) -> None:
    world = World(address)
    world.deaf.add(address)
    world.meet()
    for age in itertools.chain(range(5), [0]):
        world.ages[address] = age / 4
        world.live(1)
    assert not world.watch.suspected
    world.up.clear()
    world.ages[address] = KEEPALIVE_SILENT
    assert until_suspected(world, address) < 1
    del world.ages[address]  # the connection was given up
    world.live(1)
    assert world.watch.suspected == {address}
    world.up.add(address)
    world.live(0.5)
    assert not world.watch.suspected


def test_when_all_are_silent_none_is_called_dead() -> None:
    world = World(ONE, TWO)
    world.meet()
    world.live(1)
    world.up.clear()
    world.live(10)
    assert world.watch.suspected == {ONE, TWO}
    assert not world.watch.dead
    world.up.add(ONE)
    world.live(1)
    assert world.watch.dead == {TWO}, "now it is that one alone"


def test_who_was_dead_before_all_fell_silent_stays_so() -> None:
    world = World(ONE, TWO)
    world.meet()
    world.live(1)
    world.up.discard(TWO)
    world.live(5)
    world.up.clear()
    world.live(10)
    assert world.watch.dead == {TWO}


def test_who_is_gone_for_long_tells_nothing_of_our_own_link() -> None:
    world = World(ONE, TWO)
    world.meet()
    world.live(1)
    world.up.discard(TWO)
    world.live(GONE_AFTER + 10)
    assert world.watch.calm, "nor is it looked for in a hurry"
    world.up.clear()
    world.live(10)
    assert world.watch.dead == {ONE, TWO}


def test_when_all_are_silent_for_long_none_is_called_dead() -> None:
    world = World(ONE, TWO)
    world.meet()
    world.live(1)
    world.up.clear()
    world.live(2 * GONE_AFTER)
    assert not world.watch.dead
    assert world.watch.calm, "nor is anybody looked for in a hurry for ever"


def test_a_process_that_was_held_up_suspects_nobody() -> None:
    """Whatever came meanwhile is taken before anyone is judged."""
    world = World(ONE, TWO)
    world.meet()
    for _ in range(20):
        world.live(3 * TICK)
        world.now += 5
    assert not world.watch.suspected
    assert world.dialled == 0


def test_whoever_is_not_followed_is_forgotten() -> None:
    world = World(ONE, TWO)
    world.meet()
    world.live(1)
    world.up.discard(TWO)
    world.live(5)
    world.watch.follow((ONE,))
    assert not world.watch.suspected | world.watch.dead
    world.watch.answered(TWO)
    world.live(5)
    assert not world.watch.suspected


def test_all_nodes_are_asked_at_once_four_times_a_second() -> None:
    world = World(ONE, TWO)
    world.live(10)
    assert world.asked == pytest.approx(10 / peer_watch.ECHO_EVERY, abs=1)
