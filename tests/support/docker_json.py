"""The engine's JSON, so that two clients' can be compared."""

from __future__ import annotations

from typing import Any


def essence(value: Any) -> Any:
    """The JSON without what is as good as absent: the engine makes no difference."""
    if isinstance(value, dict):
        kept = {key: essence(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, "", [], {})}
    return [essence(item) for item in value] if isinstance(value, list) else value
