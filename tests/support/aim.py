"""What a scenario must show, as data, and the judgement of what was seen. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from load import Failure, Report

CUT = ("reset", "short answer", "closed")  # what becomes of a connection whose other end is killed
RATE = 100.0  # new connections a second on every node: less is no proof
EARLY = 0.25  # seconds that an end may be seen before the engine's clock says that the task was told to end


@dataclass(frozen=True)
class Aim:
    """`failed` new connections may fail, `lost` established ones may end although their task lives.

    `slowest` is what the slowest new connection may take, `within` what the named measurements may come to,
    in seconds; `true` is what must have been found so. None asks for nothing.
    """

    failed: int = 0
    lost: int | None = 0
    slowest: float | None = None
    within: Mapping[str, float] = field(default_factory=dict)
    true: tuple[str, ...] = ()

    def without(self, names: tuple[str, ...]) -> Aim:
        """The same, but for these measurements."""
        return replace(self, within={n: most for n, most in self.within.items() if n not in names})


@dataclass(frozen=True)
class Seen:
    """What was seen: all that the judgement is made from."""

    seconds: float
    short: Report
    long: Report
    judged: tuple[str, ...]  # addresses of the nodes that the aim is about
    ends: Mapping[str, float] = field(default_factory=dict)  # wall times at which tasks were told to end
    measured: Mapping[str, float] = field(default_factory=dict)  # the worst of each, in seconds
    found: Mapping[str, bool] = field(default_factory=dict)
    kills: tuple[
        tuple[float, float], ...
    ] = ()  # from when to when a task, a node or an agent was being killed

    def at(self, address: str) -> bool:
        """Whether an address (HOST:PORT) is of a node that the aim is about."""
        return address.rpartition(":")[0] in self.judged

    @property
    def failures(self) -> list[Failure]:
        """Of new connections, the long ones' beginnings among them."""
        of_both = chain(self.short.failures, self.long.failures)
        return [failure for failure in of_both if not failure.task and self.at(failure.address)]

    @property
    def failed(self) -> int:
        """How many new connections failed, those that were not written down among them."""
        return self._failed_short + sum(not f.task for f in self.long.failures if self.at(f.address))

    @property
    def caught(self) -> list[Failure]:
        """Failures of those that had begun when something was killed, and were in its hands."""
        return [
            failure
            for failure in self.failures
            if failure.reason in CUT
            and any(failure.began_wall <= done and failure.wall >= begun for begun, done in self.kills)
        ]

    @property
    def _failed_short(self) -> int:
        return sum(count for address, count in self.short.failed_at.items() if self.at(address))

    @property
    def attempts(self) -> int:
        """New connections, short and long."""
        answered = sum(sum(c.values()) for address, c in self.short.answers.items() if self.at(address))
        opened = sum(count for address, count in self.long.opened.items() if self.at(address))
        return answered + self._failed_short + opened

    @property
    def rate(self) -> float:
        """Short connections a second at the node that got the fewest."""
        counts = dict.fromkeys(self.judged, 0)
        for address, answers in self.short.answers.items():
            if self.at(address):
                counts[address.rpartition(":")[0]] += sum(answers.values())
        for address, count in self.short.failed_at.items():
            if self.at(address):
                counts[address.rpartition(":")[0]] += count
        return min(counts.values(), default=0) / self.seconds

    @property
    def ended(self) -> list[Failure]:
        """Established connections that came to an end."""
        return [failure for failure in self.long.failures if failure.task and self.at(failure.address)]

    @property
    def lost(self) -> list[Failure]:
        """Those of them whose task had not been told to end."""
        return [end for end in self.ended if end.wall < self.ends.get(end.task, float("inf")) - EARLY]

    @property
    def slowest(self) -> float:
        """Seconds that the slowest short connection took that was not caught; 0 where none counts as slow."""
        ends = {(failure.address, round(failure.began_wall, 1)) for failure in self.caught}
        return max(
            (
                slow.seconds
                for slow in self.short.slow
                if self.at(slow.address) and (slow.address, round(slow.wall, 1)) not in ends
            ),
            default=0.0,
        )


@dataclass(frozen=True)
class Verdict:
    """`sentence` says what was seen, `missed` has one for each part of the aim that was not reached."""

    sentence: str
    missed: tuple[str, ...]

    @property
    def is_met(self) -> bool:
        """Whether nothing was missed."""
        return not self.missed


def judge(aim: Aim, seen: Seen, *, room: float = 1.0) -> Verdict:
    """Compare. `room` stretches times, for busy machines; counts of failures have none."""
    missed = [*_counts_missed(aim, seen), *_times_missed(aim, seen, room)]
    if seen.rate < RATE / room:
        missed.append(
            f"the load was {seen.rate:.0f} connections a second on a node, {RATE / room:.0f} are needed"
        )
    return Verdict(describe(seen), tuple(missed))


def _counts_missed(aim: Aim, seen: Seen) -> list[str]:
    missed = []
    if seen.failed - len(seen.caught) > aim.failed:
        missed.append(f"{seen.failed} new connections failed ({reasons(seen.failures)})")
    if aim.lost is not None and len(seen.lost) > aim.lost:
        missed.append(
            f"{len(seen.lost)} established connections ended before their task ({reasons(seen.lost)})"
        )
    missed += [f"not so: {name}" for name in aim.true if not seen.found.get(name)]
    return missed


def _times_missed(aim: Aim, seen: Seen, room: float) -> list[str]:
    missed = []
    if aim.slowest is not None and seen.slowest > aim.slowest * room:
        missed.append(f"the slowest took {seen.slowest:.2f} s, {aim.slowest * room:g} are allowed")
    for name, most in aim.within.items():
        took = seen.measured.get(name, math.inf)  # infinity: whoever waited for it has given up
        if took == math.inf:
            missed.append(f"never seen: {name}")
        elif took > most * room:
            missed.append(f"{name} {took:.2f} s, {most * room:g} are allowed")
    return missed


def reasons(failures: list[Failure]) -> str:
    """How many of each, the most frequent first."""
    counts = Counter(failure.reason for failure in failures)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common(5))


def describe(seen: Seen) -> str:
    """One sentence of figures."""
    with_task = len(seen.ended) - len(seen.lost)
    caught = f", {len(seen.caught)} of them in the hands of what was killed" if seen.caught else ""
    parts = [
        f"{seen.failed} of {seen.attempts} new connections failed{caught}",
        f"slowest {seen.slowest:.2f} s" if seen.slowest else "none slower than 0.1 s",
        f"{len(seen.lost)} established lost" + (f", {with_task} ended with their task" if with_task else ""),
        *(f"{name} {seconds:.2f} s" for name, seconds in seen.measured.items() if seconds < math.inf),
        *(f"never seen: {name}" for name, seconds in seen.measured.items() if seconds == math.inf),
        *(name if so else f"not so: {name}" for name, so in seen.found.items()),
    ]
    return "; ".join(parts)
