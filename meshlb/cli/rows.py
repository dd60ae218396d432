"""Rows of services and tasks as docker's cells (pure, but for the clock that ages are counted by)."""

from __future__ import annotations

from datetime import UTC, datetime

from meshlb.cli.humanize import duration
from meshlb.cluster.image import displayed
from meshlb.cluster.listing import ServiceRow, TaskRow

SERVICE = {
    "ID": "ID",
    "Name": "NAME",
    "Mode": "MODE",
    "Replicas": "REPLICAS",
    "Image": "IMAGE",
    "Ports": "PORTS",
}
TASK = {
    "ID": "ID",
    "Name": "NAME",
    "Image": "IMAGE",
    "Node": "NODE",
    "DesiredState": "DESIRED STATE",
    "CurrentState": "CURRENT STATE",
    "Error": "ERROR",
    "Ports": "PORTS",
}
_LONGEST_ERROR = 30


def service_cells(row: ServiceRow) -> dict[str, str]:
    """A service, by the names that templates use."""
    return {
        "ID": row.id[:12],
        "Name": row.name,
        "Mode": row.mode,
        "Replicas": row.replicas,
        "Image": displayed(row.image),
        "Ports": row.ports,
    }


def task_cells(
    row: TaskRow, *, whole: bool, indent: bool = True, now: datetime | None = None
) -> dict[str, str]:
    """A task, by the names that templates use; `whole` truncates nothing."""
    age = duration((now or datetime.now(UTC)) - row.since).lower()
    return {
        "ID": row.id if whole else row.id[:12],
        "Name": f" \\_ {row.name}" if row.previous and indent else row.name,
        "Image": row.image if whole else displayed(row.image),
        "Node": row.node,
        "DesiredState": row.desired.capitalize(),
        "CurrentState": f"{row.state.capitalize()} {age} ago",
        "Error": _error(row.error, whole=whole),
        "Ports": row.ports,
    }


def _error(text: str, *, whole: bool) -> str:
    if not whole and len(text) > _LONGEST_ERROR:
        text = text[: _LONGEST_ERROR - 1] + "…"
    return f'"{text}"' if text else ""
