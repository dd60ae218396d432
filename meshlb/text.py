"""Foreign text as it may stand in a sentence for the user: on one line, printable, bounded.

Names, labels and answers come from whoever may deploy a service, and the sentences about them are read on
terminals.
"""

from __future__ import annotations

LONGEST = 4096  # characters of a sentence; the rest is cut
SHOWN = 100  # characters of a value that a sentence repeats


def printable(text: str, longest: int = LONGEST) -> str:
    """`text` on one line: control, bidirectional and unpaired characters as escapes, cut at `longest`."""
    head = text[: longest + 1]
    if not head.isprintable():
        head = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in head)
    return head if len(head) <= longest else head[:longest] + "…"


def shown(value: object, longest: int = SHOWN) -> str:
    """Any value as text. Such as JSON and TOML make may be too deep or too long for str()."""
    try:
        text = str(value)
    except (RecursionError, ValueError):
        text = "something too large to be shown"
    return printable(text, longest)
