"""What happened of late, for people: the newest events, few enough to be kept in memory.

The kinds: `start`, `task-up`, `task-suspected`, `task-draining`, `task-drained`, `task-paused`,
`task-down`, `port-up`, `port-failed`, `port-closed`, `failover`, `node-suspected`, `node-dead`,
`node-back`, `node-gone`, `problem`, `problem-gone`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from meshlb.model import BackendState, ChannelStatus, PortStatus
from meshlb.table import Backend, Table, changed

KEPT = 256  # events
LONGEST = 300  # characters of one
ONE_BY_ONE = 8  # tasks of a service that one change tells by name; more are one event
NAMED = 3  # ports in the event of a failover


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened. `about` names what it is about: `service`, `port`, `task` or `node`."""

    kind: str
    text: str
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """News with its number, which grows by one, and the time in seconds since 1970."""

    id: int
    at: float
    news: News


class Timeline:
    """The newest events, oldest first. What is older than the last `kept` is forgotten."""

    def __init__(self, kept: int = KEPT, clock: Callable[[], float] = time.time) -> None:
        self._events: deque[Event] = deque(maxlen=kept)
        self._clock = clock
        self.last = 0  # the number of the newest event

    def tell(self, news: Iterable[News]) -> None:
        """Add what happened now."""
        now = self._clock()
        for each in news:
            self.last += 1
            self._events.append(Event(self.last, now, each))

    def since(self, number: int) -> list[Event]:
        """The events after that with this number, as far as they are kept."""
        return [event for event in self._events if event.id > number]


def of_tables(old: Table, new: Table) -> Iterator[News]:
    """Tasks that came, went, or are in another state."""
    services = changed(old, new)
    before, after = _tasks(old, services), _tasks(new, services)
    if old == Table():  # those that were there before the agent have not come now
        yield News(
            "start", f"meshlb-agent knows {_count(len(new.entries), 'port')} and {_count(len(after), 'task')}"
        )
        return
    moved: dict[tuple[str, BackendState], list[Backend]] = {}
    for key, backend in after.items():
        if key not in before or before[key].state is not backend.state:
            moved.setdefault((key[0], backend.state), []).append(backend)
    for key, backend in before.items():
        if key not in after and backend.state is not BackendState.DOWN:
            moved.setdefault((key[0], BackendState.DOWN), []).append(backend)
    for (service, state), backends in moved.items():
        yield from _of_tasks(service, state, backends)


def _tasks(table: Table, services: Container[str]) -> dict[tuple[str, str], Backend]:
    entries = (entry for entry in table.entries if entry.service in services)
    return {(entry.service, each.task): each for entry in entries for each in entry.backends}


def _of_tasks(service: str, state: BackendState, backends: list[Backend]) -> Iterator[News]:
    kind = f"task-{state}"
    if len(backends) > ONE_BY_ONE:
        yield News(kind, _cut(f"{len(backends)} tasks of {service} are {state}"), {"service": _cut(service)})
        return
    for each in backends:
        about = {"service": service, "task": each.task, "node": each.node}
        yield News(kind, _cut(f"{each.name} is {state}"), {key: _cut(text) for key, text in about.items()})


def of_ports(old: Iterable[PortStatus], new: Iterable[PortStatus]) -> Iterator[News]:
    """Ports that are served otherwise than before, or no more."""
    before, after = ({str(status.port): status for status in each} for each in (old, new))
    for port, status in after.items():
        if status != before.get(port):
            reason = f": {status.reason}" if status.reason else ""
            yield _of_port(status, f"{status.state}{reason}")
    for port, status in before.items():
        if port not in after:
            yield _of_port(status, "closed")


def _of_port(status: PortStatus, how: str) -> News:
    text = f"port {status.port} of {status.service} is {how}"
    kind = "port-failed" if how.startswith("failed") else "port-closed" if how == "closed" else "port-up"
    return News(kind, _cut(text), {"service": _cut(status.service), "port": str(status.port)})


def of_problems(old: Iterable[str], new: Iterable[str]) -> Iterator[News]:
    """Problems that appeared, and those that are gone. Where they are many, one event counts the rest."""
    before, after = dict.fromkeys(old), dict.fromkeys(new)
    yield from _few("problem", [text for text in after if text not in before])
    yield from _few("problem-gone", [text for text in before if text not in after])


def _few(kind: str, problems: list[str]) -> Iterator[News]:
    for problem in problems[:ONE_BY_ONE]:
        yield News(kind, _cut(problem))
    if len(problems) > ONE_BY_ONE:
        yield News(kind, f"and {len(problems) - ONE_BY_ONE} more")


def of_nodes(
    old: ChannelStatus | None, new: ChannelStatus | None, names: Mapping[str, str]
) -> Iterator[News]:
    """Nodes that fell silent, are back, or are given up. `names` has those of addresses."""
    suspected, dead = _silent(old)
    now_suspected, now_dead = _silent(new)
    left = suspected - now_suspected
    followed = left.intersection(new.nodes if new else ())
    for kind, addresses, how in (
        ("node-suspected", now_suspected - suspected, "has fallen silent"),
        ("node-dead", now_dead - dead, "is taken for dead"),
        ("node-back", followed, "is back"),
        ("node-gone", left - followed, "is not looked for any more: it is silent and not in the Swarm"),
    ):
        for address in sorted(addresses):
            name = names.get(address, address)
            yield News(kind, _cut(f"node {name} {how}"), {"node": address})


def _silent(channel: ChannelStatus | None) -> tuple[frozenset[str], frozenset[str]]:
    if channel is None:
        return frozenset(), frozenset()
    return frozenset(channel.suspected), frozenset(channel.dead)


def of_failovers(
    old: Mapping[str, int], new: Mapping[str, int], services: Mapping[str, str]
) -> Iterator[News]:
    """Attempts to connect that went on to another task since the counts in `old`: one event for all ports."""
    more = {port: count - old.get(port, 0) for port, count in new.items() if count > old.get(port, 0)}
    if not more:
        return
    most = sorted(more, key=lambda port: -more[port])
    named = [f"{services.get(port, '')} {port} {more[port]}".strip() for port in most[:NAMED]]
    rest = [f"{len(most) - NAMED} more ports"] if len(most) > NAMED else []
    text = f"{_count(sum(more.values()), 'attempt')} went on to another task: {', '.join(named + rest)}"
    about = {"service": _cut(services.get(most[0], "")), "port": most[0]} if len(most) == 1 else {}
    yield News("failover", _cut(text), about)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
