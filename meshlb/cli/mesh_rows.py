"""What a node's mesh serves, as rows: a backend each, and a port where there is none (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshlb.model import endpoint

Json = Mapping[str, Any]
Key = tuple[str, str, int, str]

HEADERS = {
    "Port": "PORT",
    "Service": "SERVICE",
    "Backend": "BACKEND",
    "Task": "TASK",
    "Node": "NODE",
    "State": "STATE",
    "Active": "ACTIVE",
    "Rate": "RATE",
    "Connected": "CONNECTED",
    "Failed": "FAILED",
    "Reason": "REASON",
}


@dataclass(frozen=True, slots=True)
class Look:
    """The agent's /api/v1/status and /api/v1/counts at one time, in seconds of any clock."""

    status: Json
    counts: Json
    at: float = 0.0


def rows(look: Look, before: Look | None = None) -> list[dict[str, str]]:
    """The rows, in the order of the ports; rates need an earlier look."""
    states = {port["port"]: port for port in look.status.get("ports", ())}
    names = {node["address"]: node["name"] for node in look.status.get("nodes", ()) if node.get("name")}
    now, then = _by_backend(look.counts), _by_backend(before.counts) if before else {}
    seconds = look.at - before.at if before else 0.0
    found = []
    for service in look.status.get("services", ()):
        for port in service["ports"]:
            state = states.get(port["port"], {})
            for backend in port["backends"] or [None]:
                found.append(_row(service["name"], port["port"], state, backend, names))
                if backend:
                    key = _key(port["port"], backend)
                    ordered = backend["state"] in ("drained", "paused")
                    found[-1] |= _counted(now.get(key), then.get(key), seconds, ordered)
    told = {(row["Port"], row["Service"]) for row in found}
    found += [_row(state["service"], state["port"], state, None, names) for state in states.values()
              if (state["port"], state["service"]) not in told]  # fmt: skip
    return sorted(found, key=lambda row: (_number(row["Port"]), row["Port"], row["Service"]))


def _number(port: str) -> int:
    return int(port.partition("/")[0] or 0)


def _row(
    service: str, port: str, state: Json, backend: Json | None, names: Mapping[str, str]
) -> dict[str, str]:
    row = dict.fromkeys(HEADERS, "") | {"Port": port, "Service": service}
    row["Reason"] = str(state.get("reason", ""))
    if state.get("state") == "failed":
        row["State"] = "not served"
    elif backend is None:
        row["State"] = "no backend"
    if backend is not None:
        row["Backend"] = endpoint(backend["address"], backend["port"])
        row["Task"] = backend["name"] or backend["task"]
        row["Node"] = names.get(backend["node"], backend["node"])
        row["State"] = row["State"] or backend["state"]
    return row


def _key(port: str, backend: Json) -> Key:
    return port, backend["address"], backend["port"], backend["task"]


def _by_backend(counts: Json) -> dict[Key, Json]:
    return {
        (one["port"], one["address"], one["backend_port"], one["task"]): one
        for one in counts.get("backends", ())
    }


def _counted(now: Json | None, then: Json | None, seconds: float, ordered: bool) -> dict[str, str]:
    if now is None:
        return {}
    made = {"Active": now["active"], "Connected": now["connected"], "Failed": now["failed"]}
    row = {name: str(count) for name, count in made.items()}
    if now["aside"] and not ordered:
        row["State"] = "aside"
    if then is not None and seconds > 0:
        row["Rate"] = f"{max(now['connected'] - then['connected'], 0) / seconds:.1f}/s"
    return row


def summed(found: Sequence[Mapping[str, str]], by: str) -> Iterator[dict[str, str]]:
    """One row for each service or node (`by` is a name of HEADERS), with the sums of its backends."""
    for name in dict.fromkeys(row[by] for row in found):
        own = [row for row in found if row[by] == name]
        total = {
            column: str(sum(int(row[column] or 0) for row in own))
            for column in ("Active", "Connected", "Failed")
        }
        up = sum(row["State"] == "up" for row in own)
        rate = sum(float(row["Rate"].removesuffix("/s") or 0) for row in own)
        yield (
            dict.fromkeys(HEADERS, "")
            | {by: name, "State": f"{up}/{len(own)} up", "Rate": f"{rate:.1f}/s"}
            | total
        )
