"""The capabilities that a service's containers get beyond the usual ones, and those taken away (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ALL, RESET = "ALL", "RESET"


@dataclass(frozen=True, slots=True)
class Change:
    """What `--cap-add` and `--cap-drop` ask for; `RESET` forgets what the service had of a list."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


NOTHING = Change()


def normal(name: str) -> str:
    """`net_admin` as the engine has it: `CAP_NET_ADMIN`."""
    upper = name.strip().upper()
    return upper if upper in (ALL, RESET) or upper.startswith("CAP_") else f"CAP_{upper}"


def change(container: dict[str, Any], wanted: Change) -> None:
    """Makes the change in a ContainerSpec.

    To drop what the service had added only takes the addition back, and the other way round; what is asked
    both ways at once is added.
    """
    if wanted == NOTHING:
        return
    to_add, to_drop = _names(wanted.add), _names(wanted.drop)
    added = set() if RESET in to_add else _names(container.get("CapabilityAdd") or ())
    dropped = set() if RESET in to_drop else _names(container.get("CapabilityDrop") or ())
    fresh = to_drop - to_add - {RESET}
    added, dropped = added - fresh, dropped | (fresh - added)
    to_add -= {RESET}
    added, dropped = added | (to_add - dropped), dropped - to_add
    added, dropped = _effective(added), _effective(dropped)
    container["CapabilityAdd"], container["CapabilityDrop"] = sorted(added), sorted(dropped - added)


def _names(names: Iterable[str]) -> set[str]:
    return {normal(name) for name in names}


def _effective(names: set[str]) -> set[str]:
    return {ALL} if ALL in names else names
