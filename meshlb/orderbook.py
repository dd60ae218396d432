"""An operator's orders on disk: an agent that starts after a crash, or a reboot, knows of them.

One small file, replaced as a whole when an order is given or forgotten. Its calls block.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from meshlb.statefile import read, replace

FILE = "orders"
_FORMAT = 1
_LONGEST = 65_536  # bytes; the most orders that there may be take 40,000

log = logging.getLogger(__name__)


class OrderBook:
    """Keeps orders in a directory; without one it keeps none."""

    def __init__(self, directory: Path | None = None) -> None:
        self._path = directory / FILE if directory else None
        self._written: dict[str, str] = {}
        self._problem = ""
        self._writing = threading.Lock()

    def recall(self) -> object:
        """What was kept, as whoever wrote the file has it: `Orders.adopt` takes what is an order."""
        if self._path is None:
            return None
        try:
            data = read(self._path, _LONGEST)
            found = None if data is None else _decoded(data)
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            log.warning("the orders in %s are ignored: %s", self._path, reason)
            return None
        self._written = dict(found or {})
        return found

    def keep(self, orders: Mapping[str, str]) -> str:
        """Keep these and no others. Gives why that cannot be, in words, and else nothing."""
        if self._path is None:
            return ""
        with self._writing:
            if orders == self._written:
                return ""
            try:
                replace(self._path, json.dumps({"format": _FORMAT, "orders": dict(orders)}).encode())
            except OSError as error:
                return self._complain(self._path, error.strerror or str(error))
            self._written, self._problem = dict(orders), ""
            return ""

    def _complain(self, path: Path, reason: str) -> str:
        problem = f"{path} cannot be written: {reason}"
        if problem != self._problem:
            log.warning("orders would not survive a crash of this agent: %s", problem)
        self._problem = problem
        return problem


def _decoded(data: bytes) -> dict[str, str]:
    """ValueError when it is not a file of ours."""
    found = json.loads(data)
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError("it is not a file of meshlb's, or of another release")
    orders = found.get("orders")
    if not isinstance(orders, dict):
        raise ValueError("it has no orders")
    return orders
