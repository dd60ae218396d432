"""Lists as docker prints them: aligned columns, `--format json`, and simple templates (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshlb.errors import ConfigError

# The figures of docker's text/tabwriter.
NARROWEST, GAP = 10, 3

_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")
_OBJECT = re.compile(r"\{\{\s*json \.\s*\}\}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines of aligned columns; all rows have as many cells. The last column is not padded."""
    columns = zip(*(row[:-1] for row in rows), strict=True)
    widths = [max(NARROWEST, *(len(cell) + GAP for cell in column)) for column in columns]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)) + row[-1] + "\n"
        for row in rows
    )


def render(headers: Mapping[str, str], rows: Iterable[Mapping[str, Any]], layout: str = "") -> str:
    """The rows in a `--format`: empty for the table of `headers`, `json`, `table {{.ID}}\\t…` or `{{.ID}} …`.

    `headers` are the titles by the names that templates use.
    """
    layout = layout.replace(r"\t", "\t").replace(r"\n", "\n")
    if layout in ("json", "") or _OBJECT.fullmatch(layout):
        return _everything(headers, rows, as_json=layout != "")
    tabular = layout.startswith("table")
    if tabular:
        layout = layout.removeprefix("table").strip(" ") or "\t".join(f"{{{{.{name}}}}}" for name in headers)
    _check(layout, headers)
    lines = [_fill(layout, row) for row in rows]
    if tabular:
        return table([line.split("\t") for line in (_fill(layout, headers), *lines)])
    return "".join(f"{line}\n" for line in lines)


def _everything(headers: Mapping[str, str], rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> str:
    if as_json:
        return "".join(
            json.dumps(dict(row), sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
            for row in rows
        )
    return table([list(headers.values()), *([row[name] for name in headers] for row in rows)])


def _fill(layout: str, row: Mapping[str, Any]) -> str:
    return _FIELD.sub(lambda match: str(row[match[1]]), layout)


def _check(layout: str, headers: Mapping[str, str]) -> None:
    unknown = [name for name in _FIELD.findall(layout) if name not in headers]
    if unknown:
        raise ConfigError(f'--format: "{unknown[0]}" is not one of {", ".join(headers)}')
    if "{{" in _FIELD.sub("", layout):
        raise ConfigError(
            f'--format "{layout}": only plain fields such as {{{{.ID}}}}, `table …` and `json` are understood'
        )
