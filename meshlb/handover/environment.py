"""The agent's environment, renewed for its replacement: systemd reads EnvironmentFile= at a start alone.

What the file gave at the start is left out, and what it says now comes instead. All else stays: a unit may
set more by itself. See systemd.exec(5) for how such a file is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

FILE = "MESHLB_ENVIRONMENT_FILE"  # the variable by which the unit says which file that is
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A comment, or a name with quoted parts and a rest, whose line a backslash continues.
_LINE = re.compile(
    r"""\s*(?:[#;][^\n]*|(?P<name>[^=\n]*?)[^\S\n]*
    (?:=(?P<quoted>(?:[^\S\n]*(?:'[^']*'|"(?:\\.|[^"\\])*"))*)[^\S\n]*(?P<rest>(?:\\.|[^\\\n])*))?)
    (?:\n|\Z)""",
    re.DOTALL | re.VERBOSE,
)
_QUOTED = re.compile(r"""'([^']*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)


def from_file(environment: Mapping[str, str]) -> dict[str, str]:
    """What the file says that an environment names: nothing where none is. OSError."""
    path = environment.get(FILE, "")
    try:
        data = Path(path).read_bytes() if path else b""
    except FileNotFoundError:
        data = b""
    found = parsed(data.decode(errors="surrogateescape"))
    found.pop(FILE, None)
    return found


def renewed(environment: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """An environment with what its file says now instead of what it said `before`. OSError."""
    kept = {name: value for name, value in environment.items() if name not in before}
    return kept | from_file(environment)


def parsed(text: str) -> dict[str, str]:
    """The variables in a file's text; what is no such line is left out (pure)."""
    found: dict[str, str] = {}
    for line in _LINE.finditer(text):
        if line["rest"] is not None and _NAME.fullmatch(line["name"]):
            found[line["name"]] = _value(line["quoted"], line["rest"])
    return found


def _value(quoted: str, rest: str) -> str:
    parts = [single or re.sub(r'\\([\n"\\`$])', _plain, double) for single, double in _QUOTED.findall(quoted)]
    return "".join(parts) + re.sub(r"\\(.)", _plain, rest.rstrip(), flags=re.DOTALL)


def _plain(escaped: re.Match[str]) -> str:
    """The character itself; the end of a line is none."""
    return escaped[1].strip("\n")
