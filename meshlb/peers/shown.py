"""What agents tell each other for people who look at a page: what was counted, and what happened. Pure.

Nobody acts on it, so it is checked for shape and size alone, and told on as text that names are. It is told
apart from states before it is parsed, by the member that comes first: it is larger, comes once a second while
somebody looks, and has no need of what makes parsing states slow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meshlb.peers.message import MessageError

COUNTS, EVENTS = "counts", "events"
MAX_BYTES = 1 << 20
MAX_PORTS = 4_096
MAX_BACKENDS = 2_000
MAX_EVENTS = 64
MAX_TEXT = 300  # characters
MAX_BUCKETS = 64  # numbers, two for each

SOONEST, LATEST = 1.0, 60.0  # seconds between two messages with counts
BYTES_PER_SECOND = 200e3  # of counts, to one who looks; more of them come more seldom
_EARLY = 0.2  # seconds: counts are made once a second, and not to be missed by a moment

_MARK = '{"shown":'
_MOST = 2**53
_MOST_OF = {"ports": MAX_PORTS, "backends": MAX_BACKENDS, "events": MAX_EVENTS}
_PORT = {"port": str} | dict.fromkeys(("open", "accepted", "failed", "failovers", "received", "sent"), int)
_BACKEND = {"port": str, "task": str, "aside": bool} | dict.fromkeys(
    ("active", "connected", "failed", "received", "sent"), int
)
_INT = frozenset({int})
_BUCKETS = ("connect_buckets", "first_byte_buckets")
_EVENT = {"id": int, "kind": str, "text": str}
_ABOUT = ("service", "port", "task", "node")


@dataclass(frozen=True, slots=True)
class Shown:
    """Counts, or the newest events, oldest first. `kind` is COUNTS or EVENTS, `at` seconds since 1970."""

    kind: str
    at: float
    document: dict[str, Any]


def encode(kind: str, at: float, document: Mapping[str, Any]) -> str:
    """The message, with no more of each than a receiver takes."""
    cut = {name: document[name][-most:] for name, most in _MOST_OF.items() if name in document}
    return json.dumps({"shown": kind, "at": round(at, 3)} | cut, separators=(",", ":"))


def is_shown(text: str) -> bool:
    """Whether it is such a message, and no state."""
    return text.startswith(_MARK)


def decode(text: str) -> Shown:
    """What is told, of the members that are known; MessageError for anything else, whatever it is."""
    if len(text) > MAX_BYTES:
        raise MessageError(f"it is {len(text)} characters long; {MAX_BYTES} are allowed")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError("it is not JSON") from None
    if not isinstance(found, dict):
        raise MessageError("it is not an object")
    at, kind = _time(found.get("at")), found["shown"]
    if kind == COUNTS:
        ports = _list(found, "ports", MAX_PORTS, lambda row: _counts(row, _PORT))
        backends = _list(found, "backends", MAX_BACKENDS, lambda row: _counts(row, _BACKEND))
        return Shown(COUNTS, at, {"ports": ports, "backends": backends})
    if kind == EVENTS:
        return Shown(EVENTS, at, {"events": _list(found, "events", MAX_EVENTS, _event)})
    raise MessageError("it shows something unknown")


def asks(seconds: float) -> str:
    """The message of who wants to be shown something that often; with 0, nothing any more."""
    return json.dumps({"look": round(seconds, 1)})


def asked(text: str) -> float:
    """The seconds in such a message; MessageError when it is none."""
    try:
        seconds = json.loads(text)["look"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise MessageError("it does not ask to look") from None
    if type(seconds) not in (int, float) or not 0 <= seconds < 1e12:  # NaN is not, either
        raise MessageError("it asks to look that often in vain")
    return min(max(float(seconds), SOONEST), LATEST) if seconds else 0.0


def _counts(row: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    found = _members(row, kinds)
    for name in _BUCKETS:
        buckets = found[name] = row.get(name)
        if not isinstance(buckets, list) or len(buckets) > MAX_BUCKETS or len(buckets) % 2:
            raise MessageError("a row has no buckets")
        if buckets and (not _INT.issuperset(map(type, buckets)) or min(buckets) < 0 or max(buckets) > _MOST):
            raise MessageError("a row has buckets with what is no count")
    return found


def _members(row: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Thousands come each second: as much as can be is done by what is written in C."""
    if not isinstance(row, dict):
        raise MessageError("a row is not an object")
    found = {name: row.get(name) for name in kinds}
    if list(map(type, found.values())) != list(kinds.values()):  # a bool is an int to isinstance()
        raise MessageError(f"a row has {', '.join(kinds)} of other types than these should have")
    for value in found.values():
        if (type(value) is int and not 0 <= value <= _MOST) or (type(value) is str and len(value) > MAX_TEXT):
            raise MessageError("a row has a text or a number that is too large")
    return found


def _event(row: Any) -> dict[str, Any]:
    found = _members(row, _EVENT) | {"time": _time(row.get("time"))}
    about = {name: str for name in _ABOUT if name in row}
    return found | _members(row, about)


def _time(found: Any) -> float:
    if type(found) not in (int, float) or not 0 <= found < 1e11:
        raise MessageError("it has a time that is none")
    return float(found)


def _list(
    members: dict[str, Any], key: str, most: int, parse: Callable[[Any], dict[str, Any]]
) -> list[dict[str, Any]]:
    found = members.get(key)
    if not isinstance(found, list) or len(found) > most:
        raise MessageError(f"it has {key} that are not a list, or too many")
    return [parse(item) for item in found]


class Looker:
    """One who may look: what it is to be told next. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self.every = 0.0  # seconds; 0: it does not look
        self._due = 0.0
        self._had: dict[str, str] = {}

    def ask(self, every: float) -> None:
        """It wants to be told that often from now on."""
        self.every, self._due = every, 0.0
        self._had.clear()

    def next(self, offered: Mapping[str, str], now: float) -> list[str]:
        """The messages that it has not had, counts when it is time for them."""
        if not self.every:
            return []
        fresh = {kind: text for kind, text in offered.items() if text is not self._had.get(kind)}
        if now < self._due:
            fresh.pop(COUNTS, None)
        if COUNTS in fresh:
            self._due = now + max(self.every - _EARLY, len(fresh[COUNTS]) / BYTES_PER_SECOND)
        self._had |= fresh
        return list(fresh.values())
