"""What agents tell each other for people who look at a page: what was counted, and what happened. Pure.

Nobody acts on it, so it is checked for shape and size alone, and told on as text that names are. It is told
apart from states before it is parsed, by the member that comes first: it is larger, comes once a second while
somebody looks, and has no need of what makes parsing states slow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
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
_HEAD = re.compile(r'\{"shown":"[a-z]+","at":[-+.eE0-9]+,')
_MOST = 2**53
_MOST_OF = {"ports": MAX_PORTS, "backends": MAX_BACKENDS, "events": MAX_EVENTS}
_BUCKETS: dict[str, type] = {"connect_buckets": list, "first_byte_buckets": list}
_PORT: dict[str, type] = {"port": str} | dict.fromkeys(
    ("open", "accepted", "failed", "failovers", "received", "sent"), int
)
_BACKEND: dict[str, type] = {"port": str, "task": str, "aside": bool} | dict.fromkeys(
    ("active", "connected", "failed", "received", "sent"), int
)
_COLUMNS = {"ports": _PORT | _BUCKETS, "backends": _BACKEND | _BUCKETS}
_EVENT = {"id": int, "kind": str, "text": str}
_ABOUT = dict.fromkeys(("service", "port", "task", "node"), str)


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


_JSON = json.JSONDecoder(parse_constant=_no_constant)


@dataclass(frozen=True, slots=True)
class Shown:
    """Counts, or the newest events, oldest first. `kind` is COUNTS or EVENTS, `at` seconds since 1970.

    `text` is a JSON object of one line of ASCII, to be told on as it is.
    """

    kind: str
    at: float
    text: str


def encode(kind: str, at: float, document: Mapping[str, Any]) -> str:
    """The message, with no more of each than a receiver takes."""
    cut = {name: _cut(document[name], most) for name, most in _MOST_OF.items() if name in document}
    return json.dumps({"shown": kind, "at": round(at, 3)} | cut, separators=(",", ":"))


def _cut(table: Any, most: int) -> Any:
    """Of rows, or of every column, the last."""
    return {name: each[-most:] for name, each in table.items()} if isinstance(table, dict) else table[-most:]


def is_shown(text: str) -> bool:
    """Whether it is such a message, and no state."""
    return text.startswith(_MARK)


def decode(text: str) -> Shown:
    """What is told, of the members that are known; MessageError for anything else, whatever it is."""
    if len(text) > MAX_BYTES:
        raise MessageError(f"it is {len(text)} characters long; {MAX_BYTES} are allowed")
    try:
        found = _JSON.decode(text)
    except (ValueError, RecursionError):
        raise MessageError("it is not JSON") from None
    if not isinstance(found, dict):
        raise MessageError("it is not an object")
    at, kind = _time(found.get("at")), found["shown"]
    document: dict[str, Any]
    if kind == COUNTS:
        document = {name: _table(found.get(name), name, kinds) for name, kinds in _COLUMNS.items()}
    elif kind == EVENTS:
        document = {"events": _events(found.get("events"))}
    else:
        raise MessageError("it shows something unknown")
    return Shown(kind, at, _told_on(text, found, document))


def _told_on(text: str, found: dict[str, Any], document: dict[str, Any]) -> str:
    """What is known of a message, as it came where that is all of it: writing it anew takes a while."""
    head = _HEAD.match(text)
    rest = {name: value for name, value in found.items() if name not in ("shown", "at")}
    if head and rest == document and text.isascii() and text.isprintable():  # else it may have line ends
        return "{" + text[head.end() :]
    return json.dumps(document, separators=(",", ":"))


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


def _table(found: Any, name: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """The columns that are known. Thousands of rows come each second: all is done by what is written in C."""
    if not isinstance(found, dict):
        raise MessageError(f"it has {name} that are no table")
    columns: dict[str, Any] = {column: found.get(column) for column in kinds}
    for column, kind in kinds.items():
        _check_column(column, kind, columns[column])
    if len(set(map(len, columns.values()))) > 1 or len(columns["port"]) > _MOST_OF[name]:
        raise MessageError(f"it has {name} of which a column is longer than another, or too many")
    return columns


def _events(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or len(found) > MAX_EVENTS or set(map(type, found)) - {dict}:
        raise MessageError("it has events that are not a list of objects, or too many")
    for name, kind in _EVENT.items():
        _check_column(name, kind, [row.get(name) for row in found])
    for name, kind in _ABOUT.items():
        _check_column(name, kind, [row[name] for row in found if name in row])
    for row in found:
        _time(row.get("time"))
    known = (*_EVENT, "time", *_ABOUT)
    return [{name: row[name] for name in known if name in row} for row in found]


def _check_column(name: str, kind: type, column: Any) -> None:
    if not isinstance(column, list) or set(map(type, column)) - {kind}:  # isinstance(True, int) is true
        raise MessageError(f"it has {name} that is missing or of another kind than it should be")
    if kind is int and column and not (min(column) >= 0 and max(column) <= _MOST):
        raise MessageError(f"it has a {name} that is no count")
    if kind is str and max(map(len, column), default=0) > MAX_TEXT:
        raise MessageError(f"it has a {name} that is too long")
    if kind is list:
        if any(size % 2 or size > MAX_BUCKETS for size in map(len, column)):
            raise MessageError(f"it has {name} that are none")
        _check_column(name, int, [*chain.from_iterable(column)])


def _time(found: Any) -> float:
    if type(found) not in (int, float) or not 0 <= found < 1e11:
        raise MessageError("it has a time that is none")
    return float(found)


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
