"""Log records as lines: readable text, or one JSON object each.

Names and labels come from whoever may deploy a service, so everything in a record is data: what is not
printable is escaped, and one record can never look like two.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from meshlb.lines import Lines
from meshlb.text import printable

ACCESS = "meshlb.access"  # the logger whose records are one for each connection, by request

_WORDS = re.compile(r"[\s:,;]+")
_NEEDS_QUOTES = re.compile(r'[\s"=]')


def to_stderr(data: bytes) -> None:
    """Not by Python's file: it has a lock, and our end would wait for who waits there for a reader."""
    while data:
        data = data[os.write(sys.stderr.fileno(), data) :]


def setup(style: str, level: str, write: Callable[[bytes], object] = to_stderr) -> logging.Handler:
    """Have every record written as `text` or `json`: ours from `level` on, others' from WARNING on.

    Nobody who logs waits for `write`; `flush` does, for a while.
    """
    handler = LineHandler(write)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("meshlb").setLevel(level.upper())
    return handler


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Details of a record, for the `extra` of a log call: `key=value` in text, members in JSON."""
    return {"fields": values}


class LineHandler(logging.Handler):
    """Makes lines of records; a thread writes them. A record whose line is lost gets the field `lost`."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self._lines = Lines(write, self._lacking)

    def createLock(self) -> None:  # noqa: N802  # logging's name
        """None: the event loop would wait for it while a thread that has it waits for a place."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """As every handler does, without the lock: Python 3.13 takes it whether there is one or not."""
        passed = bool(self.filter(record))
        if passed:
            self.emit(record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Give its line to the thread."""
        try:
            record.lost = not self._lines.put(self.format(record), bulk=record.name == ACCESS)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all lines are written, or nobody reads them."""
        self._lines.flush()

    def close(self) -> None:
        """Write nothing more."""
        self._lines.close()
        super().close()

    def _lacking(self, lost: int) -> str:
        text = "the log lacks lines: nobody has read it for a while"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)
        record.fields = {"lost": lost}
        return self.format(record)


class TextFormatter(logging.Formatter):
    """`2026-11-23T09:31:02.123Z INFO    message key=value`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, and its traceback's lines."""
        message = printable(record.getMessage())
        # What the message says already is noise; but lines of connections are for programs, too.
        said = set(_WORDS.split(message)) if record.name != ACCESS else set[str]()
        details = "".join(
            f" {printable(key)}={_quoted(value)}"
            for key, value in _fields(record).items()
            if str(value) not in said
        )
        line = f"{_timestamp(record)} {record.levelname:<7} {message}{details}"
        return "\n    ".join([line, *map(printable, _traceback(self, record).splitlines())])


class JsonFormatter(logging.Formatter):
    """One object per line: `ts`, `level`, `message`, `logger`, the fields, and `traceback` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line. A field cannot replace one of the record's own members."""
        own = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "message": printable(record.getMessage()),
            "logger": record.name,
        }
        details = {key: value for key, value in _fields(record).items() if key not in own}
        trace = _traceback(self, record)
        return json.dumps(own | details | ({"traceback": trace} if trace else {}), default=str)


class RepeatFilter(logging.Filter):
    """Lets few equal records through in `window` seconds, so that no fault can flood the log.

    `texts` bounds records with the same text, `templates` those of one log call with different
    arguments. The next record that passes says in `suppressed` how many did not.
    """

    REMEMBERED = 2048  # keys; the oldest is forgotten first

    def __init__(
        self,
        texts: int = 3,
        templates: int = 1000,
        window: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._texts, self._templates, self._window, self._clock = texts, templates, window, clock
        self._seen: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()
        self._lock = threading.RLock()  # a finalizer may log while its own thread has it

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes; it may get the field `suppressed`."""
        if record.name == ACCESS:
            return True
        origin = (record.name, record.levelno)
        text = (*origin, "text", record.getMessage())
        template = (*origin, "template", str(record.msg))
        with self._lock:
            passed, suppressed = zip(
                self._count(text, self._texts), self._count(template, self._templates), strict=True
            )
        if any(suppressed):
            record.fields = {**_fields(record), "suppressed": max(suppressed)}
        return all(passed)

    def _count(self, key: tuple[object, ...], limit: int) -> tuple[bool, int]:
        now, suppressed = self._clock(), 0
        since, count = self._seen.pop(key, (now, 0))
        if now - since >= self._window:
            since, count, suppressed = now, 0, max(0, count - limit)
        self._seen[key] = (since, count + 1)
        if len(self._seen) > self.REMEMBERED:
            self._seen.popitem(last=False)
        return count < limit, suppressed


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found = getattr(record, "fields", None)
    return found if isinstance(found, dict) else {}


def _quoted(value: object) -> str:
    if isinstance(value, int | float):
        return str(value)
    text = printable(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or _NEEDS_QUOTES.search(text) else text


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""
