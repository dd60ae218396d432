"""Which nodes have fallen silent: power lost, cable cut. Pure but for what it is given to ask them with.

    (unknown) ──answers a connection──► alive ──two echoes lost, then a dial unanswered──► suspected
                                          ▲                                                  │    │
                                          └────────── any answer of its kernel ──────────────┘    │ 3 s
                                          └──────────────── any answer ◄── dead ◄─────────────────┘

A node is watched from its first answer to a connection on: one that a firewall keeps to itself is never
suspected. It answers by its kernel, so an agent that has ended, hangs or was never installed is no silence.
Of a node that answers no echoes the kernel's own keepalive on the agent's connection is what counts.

When all nodes are silent at once, the cut link is more likely ours: none is called dead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from meshlb.peers.echo import is_askable

ECHO_EVERY = 0.25  # seconds
EARLY = 0.02  # seconds that an echo may be sent too early, so that no look comes just before its time
SILENT = 0.3  # seconds without an answer: the next echo has been lost as well
KEEPALIVE_SILENT = 1.6  # seconds: keepalive asks once a second, as seldom as the kernel can
DIALLING = 0.25  # seconds that one attempt may take
# Seconds from suspected to dead. Established connections survive a link that is cut for 3 s and healed: TCP
# itself would carry on. After that their clients are better served by a reset than by waiting.
DEAD_AFTER = 3.0
# Seconds of silence after which a dead node is no part of the question whether our own link is cut, and not
# looked for in a hurry.
GONE_AFTER = 90.0


class Asking(Protocol):
    """What is needed of `meshlb.peers.echo.Echo`."""

    def ask(self, addresses: Iterable[str]) -> None:
        """Send one echo to each."""

    def answers(self) -> set[str]:
        """Who has answered since the last look."""

    def close(self) -> None:
        """Ask no more."""


class Dialling(Protocol):
    """What is needed of `meshlb.peers.dial.Dials`."""

    def start(self, address: str, now: float) -> None:
        """Begin an attempt, unless one is under way."""

    def stop(self, address: str) -> None:
        """Forget an attempt."""

    def results(self, now: float) -> dict[str, bool]:
        """Who has answered, of the attempts that have ended."""

    def close(self) -> None:
        """Forget all attempts."""


@dataclass(slots=True)
class _Host:
    askable: bool  # by an echo
    watched: bool = False
    echoes: bool = False  # it answers them
    asked: float | None = None  # when the oldest echo was sent that is not answered
    suspected: float | None = None  # since when
    dead: bool = False


class Watch:
    """The nodes of a Swarm as they answer. `age` gives the seconds since a connection's last sign of life."""

    def __init__(
        self, echo: Asking, dials: Dialling, age: Callable[[str], float | None] = lambda address: None
    ) -> None:
        self._echo, self._dials, self._age = echo, dials, age
        self._hosts: dict[str, _Host] = {}
        self._next_echo = 0.0
        self.calm = False  # every node has answered: the next look may wait for the next echo

    @property
    def suspected(self) -> frozenset[str]:
        """Nodes that are silent, the dead among them."""
        return frozenset(a for a, host in self._hosts.items() if host.suspected is not None)

    @property
    def dead(self) -> frozenset[str]:
        """Nodes that have been silent for long."""
        return frozenset(address for address, host in self._hosts.items() if host.dead)

    def follow(self, addresses: Collection[str]) -> None:
        """Watch exactly these nodes; what is known of the others is forgotten."""
        for address in self._hosts.keys() - set(addresses):
            self._dials.stop(address)
            del self._hosts[address]
        for address in addresses:
            if address not in self._hosts:
                self._hosts[address] = _Host(is_askable(address))

    def answered(self, address: str) -> None:
        """The node has answered a connection."""
        host = self._hosts.get(address)
        if host:
            host.watched = True
            self._live(host)

    def close(self) -> None:
        """Watch no more."""
        self._echo.close()
        self._dials.close()

    def tick(self, now: float) -> None:
        """Take what has been answered, judge who has not, ask again. Several times a second."""
        for address in self._echo.answers():
            self._echoed(address)
        for address, answered in self._dials.results(now).items():
            self._dialled(address, answered, now)
        alone = self._is_alone(now)
        for address, host in self._hosts.items():
            self._judge(address, host, now, alone)
        self.calm = not any(self._is_missed(host, now) for host in self._hosts.values())
        if now >= self._next_echo:
            self._ask(now)

    def _ask(self, now: float) -> None:
        self._next_echo = now + ECHO_EVERY - EARLY
        asked = {address: host for address, host in self._hosts.items() if host.askable}
        for host in asked.values():
            if host.asked is None:
                host.asked = now
        self._echo.ask(asked)

    def _echoed(self, address: str) -> None:
        host = self._hosts.get(address)
        if host:
            host.echoes = True
            self._live(host)

    def _dialled(self, address: str, answered: bool, now: float) -> None:
        host = self._hosts.get(address)
        if host is None:
            return
        if answered:
            host.echoes = False  # not to be relied on, until it answers one again
            self.answered(address)
        elif host.suspected is None and self._is_silent(address, host, now):
            host.suspected = now

    def _judge(self, address: str, host: _Host, now: float, alone: bool) -> None:
        if host.suspected is not None:
            host.dead |= now - host.suspected >= DEAD_AFTER and not alone
            self._dials.start(address, now)  # a healed link is noticed without TCP's own patience
        elif host.watched and self._is_silent(address, host, now):
            self._dials.start(address, now)

    def _is_silent(self, address: str, host: _Host, now: float) -> bool:
        if host.echoes:
            return host.asked is not None and now - host.asked >= SILENT
        age = self._age(address)
        return age is not None and age >= KEEPALIVE_SILENT

    @staticmethod
    def _is_gone(host: _Host, now: float) -> bool:
        return host.dead and host.suspected is not None and now - host.suspected >= GONE_AFTER

    @staticmethod
    def _is_missed(host: _Host, now: float) -> bool:
        if host.suspected is not None:
            return now - host.suspected < GONE_AFTER
        return host.echoes and host.asked is not None

    def _is_alone(self, now: float) -> bool:
        watched = [host for host in self._hosts.values() if host.watched and not self._is_gone(host, now)]
        return len(watched) > 1 and all(host.suspected is not None for host in watched)

    @staticmethod
    def _live(host: _Host) -> None:
        host.asked, host.suspected, host.dead = None, None, False
