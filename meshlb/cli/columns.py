"""Lists as docker prints them: aligned columns, `--format json`, and templates (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from meshlb.cli.template import Template
from meshlb.errors import ConfigError

# The figures of docker's text/tabwriter.
NARROWEST, GAP = 10, 3


def table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines of aligned columns; all rows have as many cells. The last column is not padded."""
    columns = zip(*(row[:-1] for row in rows), strict=True)
    widths = [max(NARROWEST, *(len(cell) + GAP for cell in column)) for column in columns]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)) + row[-1] + "\n"
        for row in rows
    )


def render(
    headers: Mapping[str, str],
    rows: Iterable[Mapping[str, Any]],
    layout: str = "",
    more: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The rows in a `--format`: empty for the table of `headers`, `json`, `table {{.ID}}\\t…` or `{{.ID}} …`.

    `headers` are the titles by the names that templates use; `more` those of columns that only they show.
    """
    if layout in ("json", "{{json .}}"):
        return "".join(f"{_json(row)}\n" for row in rows)
    if layout in ("", "table"):
        return table([list(headers.values()), *([row[name] for name in headers] for row in rows)])
    tabular = layout.startswith("table")
    text = layout.removeprefix("table").strip(" ") if tabular else layout
    template = Template(text)
    known = {**headers, **more}
    _check(template, known)
    lines = [template.fill(row) for row in rows]
    if tabular:
        title = Template(text, titles=True).fill(known)
        return table(_even([line.split("\t") for line in (title, *lines)]))
    return "".join(f"{line}\n" for line in lines)


def _even(rows: list[list[str]]) -> list[list[str]]:
    """The rows with as many cells as the longest has: a template may leave some out."""
    most = max(map(len, rows))
    return [row + [""] * (most - len(row)) for row in rows]


def _json(row: Mapping[str, Any]) -> str:
    text = json.dumps(dict(row), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for mark in "<>&":  # as Go has them
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _check(template: Template, headers: Mapping[str, str]) -> None:
    unknown = [name for name in template.fields() if name not in headers]
    if unknown:
        raise ConfigError(f'--format: "{unknown[0]}" is not one of {", ".join(headers)}')
