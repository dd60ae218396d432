"""Pieces of what the engine answers, of the kind that they should be, or empty."""

from __future__ import annotations


def dict_in(value: object) -> dict[str, object]:
    """The object itself; an empty one instead of anything else."""
    return value if isinstance(value, dict) else {}


def list_in(value: object) -> list[object]:
    """The list itself; an empty one instead of anything else."""
    return value if isinstance(value, list) else []


def text_in(value: object) -> str:
    """The string itself; an empty one instead of anything else."""
    return value if isinstance(value, str) else ""
