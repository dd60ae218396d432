"""What keeps tasks from seeing clients' own addresses though a port wants it, in sentences for the user.

A task is prepared an instant after its start. Only what lasts is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from meshlb.model import BackendState, Port, Snapshot
from meshlb.policy import TRANSPARENT
from meshlb.table import Backend, Entry, Table
from meshlb.text import printable

SETTLE = 5.0  # seconds that a port may want what is not there yet
MOST_PORTS = 50  # that sentences are about
MOST_REASONS = 3  # in a sentence
FILE = "the backends of a file have nobody who prepares them; proxy-protocol tells them clients' addresses"
SILENT = "no agent there has told that it has prepared it; is one running, and not with --peers off?"


class Hidden:
    """Remembers since when ports have had backends that do not see what they should."""

    def __init__(self) -> None:
        self._since: dict[Port, float] = {}

    def look(self, table: Table, snapshot: Snapshot, now: float) -> dict[Port, str]:
        """A sentence about each port of which that has been so for a while. `now` is of any clock."""
        found = dict(islice(_all(table, snapshot), MOST_PORTS))
        self._since = {port: self._since.get(port, now) for port in found}
        return {port: text for port, text in found.items() if now - self._since[port] >= SETTLE}


def _all(table: Table, snapshot: Snapshot) -> Iterator[tuple[Port, str]]:
    for entry in table.entries:
        if entry.policy.client_address == TRANSPARENT and (blind := _blind(entry)):
            yield entry.port, _sentence(entry, blind, snapshot)


def _blind(entry: Entry) -> list[Backend]:
    return [each for each in entry.backends if each.state is BackendState.UP and not each.prepared]


def _sentence(entry: Entry, blind: list[Backend], snapshot: Snapshot) -> str:
    total = sum(backend.state is BackendState.UP for backend in entry.backends)
    instead = "see a node's" if entry.policy.fallback == "mesh" else "get no connections (fallback=refuse)"
    who = f"{len(blind)} of {total} tasks do" if total > 1 else "its task does"
    instead = instead if total > 1 else instead.replace("see", "sees").replace("get", "gets")
    return printable(
        f"port {entry.port}: {who} not see clients' own addresses and {instead}: {_reasons(blind, snapshot)}"
    )


def _reasons(blind: Iterable[Backend], snapshot: Snapshot) -> str:
    hindrances, names = dict(snapshot.hindrances), {node.address: node.name for node in snapshot.nodes}
    found = dict.fromkeys(_reason(backend, snapshot.node, hindrances, names) for backend in blind)
    more = f"; and {len(found) - MOST_REASONS} more reasons" if len(found) > MOST_REASONS else ""
    return "; ".join(islice(found, MOST_REASONS)) + more


def _reason(backend: Backend, own: str, hindrances: Mapping[str, str], names: Mapping[str, str]) -> str:
    """This node's own trouble comes first: it keeps all tasks from it."""
    if not backend.node:
        return FILE
    node = own if own in hindrances else backend.node
    return f"on {names.get(node) or node}: {hindrances.get(node, SILENT)}"
