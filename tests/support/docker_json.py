"""The engine's JSON, so that two clients' can be compared."""

from __future__ import annotations

import json
from typing import Any


def essence(value: Any) -> Any:
    """The JSON without what is as good as absent: the engine makes no difference."""
    if isinstance(value, dict):
        kept = {key: essence(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, "", [], {})}
    return [essence(item) for item in value] if isinstance(value, list) else value


def unordered(value: Any, key: str = "") -> Any:
    """The JSON with those lists sorted that docker's client orders by chance, a range's ports for one.

    And the mounts: it sorts them at every update of whatever else, which makes Swarm replace all tasks.
    """
    if isinstance(value, dict):
        return {name: unordered(item, name) for name, item in value.items()}
    if key in ("Env", "Mounts", "Secrets", "Configs", "GenericResources", "Ports"):
        return sorted(value, key=lambda entry: json.dumps(entry, sort_keys=True))
    return value
