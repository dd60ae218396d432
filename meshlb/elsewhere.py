"""Where the page and the channel between agents meet: what other nodes' agents tell while somebody looks.

The page says that somebody `look`s, and the channel asks the other agents; what they tell is kept here, the
newest of each, until nobody looks any more. The other way round, `watched` is set while others look, and what
is counted here goes to `show`. Without a channel nothing comes of either.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 32 << 20  # of all that is kept
STALE = 40.0  # seconds after which counts are not shown any more; of many agents each is asked less often

Show = Callable[[str, float, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Told:
    """What an agent tells, as the members of a JSON object; `number` is another one with every change."""

    number: int
    heard: float
    text: str


class Elsewhere:
    """Both directions. Nobody is asked, and nobody hears, before a channel has joined."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.watched = asyncio.Event()  # other agents look
        self._on_look: Callable[[bool], None] = lambda on: None
        self.show: Show = lambda kind, at, document: None
        self._clock = clock
        self._looking = False
        self._told: dict[tuple[str, str], Told] = {}  # by kind and address
        self._size = self._number = 0

    def join(self, on_look: Callable[[bool], None], show: Show) -> None:
        """The channel: who is told whether somebody looks, and who tells others what is counted here."""
        self._on_look, self.show = on_look, show
        on_look(self._looking)

    def look(self, on: bool) -> None:
        """Whether somebody looks at this node's page now."""
        if on == self._looking:
            return
        self._looking = on
        self._on_look(on)
        if not on:
            self._told.clear()
            self._size = 0

    def watch(self, on: bool) -> None:
        """Whether other agents look."""
        (self.watched.set if on else self.watched.clear)()

    def take(self, address: str, kind: str, at: float, told: str) -> None:
        """Keep what the agent at this address told, unless that would be too much; `at` is its own clock.

        `told` is a JSON object that has a member at least.
        """
        if not self._looking:
            return
        self._forget((kind, address))
        ahead = round(at - time.time(), 1)
        about = json.dumps({"node": address, "time": at, "ahead": ahead}, separators=(",", ":"))
        text = f"{about[:-1]},{told[1:]}"
        if self._size + len(text) <= MOST_BYTES:
            self._number += 1
            self._size += len(text)
            self._told[kind, address] = Told(self._number, self._clock(), text)

    def told(self) -> dict[tuple[str, str], Told]:
        """By kind and address: the newest of each agent, without counts that are old."""
        stale = self._clock() - STALE
        for key in [key for key, each in self._told.items() if key[0] == "counts" and each.heard < stale]:
            self._forget(key)
        return self._told

    def _forget(self, key: tuple[str, str]) -> None:
        before = self._told.pop(key, None)
        self._size -= len(before.text) if before else 0
