"""The command's reference, from the parser itself: docs/cli.md and man pages.

python -m meshlb.cli.manual docs/cli.md [FOLDER FOR MAN PAGES]
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from meshlb import __version__, agent
from meshlb.cli import main

Page = tuple[str, click.Command]


def pages(command: click.Command = main, path: str = "meshlb") -> Iterator[Page]:
    """Every verb with its whole name, groups before their verbs."""
    yield path, command
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            if found is not None and not found.hidden:
                yield from pages(found, f"{path} {name}")


def every_page() -> Iterator[Page]:
    """The verbs, and the agent itself."""
    yield from pages()
    yield "meshlb-agent", agent.main


def markdown() -> str:
    """docs/cli.md."""
    parts = [
        "# The command\n\nWritten by `scripts/reference` from the parser; do not edit.\n",
        *(_section(path, command) for path, command in every_page()),
    ]
    return "\n".join(parts)


def _section(path: str, command: click.Command) -> str:
    ctx = click.Context(command, info_name=path)
    text = [f"## {path}\n", f"```\n{_usage(command, ctx)}\n```\n"]
    prose, examples = _described(command)
    text += [f"{prose}\n"] if prose else []
    text += [f"```\n{examples}\n```\n"] if examples else []
    options = list(_options(command, ctx))
    if options:
        text += ["| option | |\n|---|---|"]
        text += [
            f"| {' '.join(f'`{part}`' for part in _cell(flag).split(', '))} | {_cell(help_)} |"
            for flag, help_ in options
        ]
        text += [""]
    return "\n".join(text)


def _usage(command: click.Command, ctx: click.Context) -> str:
    return " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])


def _described(command: click.Command) -> tuple[str, str]:
    """The help's prose, and its examples, which stand in paragraphs that are not to be wrapped."""
    prose, examples = [], []
    for paragraph in re.split(r"\n\s*\n", (command.help or "").strip()):
        lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
        if lines[:1] == ["\b"]:
            examples += [line for line in lines[1:] if not line.endswith(":")]
        elif lines:
            prose.append(" ".join(lines))
    return "\n\n".join(prose), "\n".join(examples)


def _options(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, str]]:
    for param in map(copy.copy, command.get_params(ctx)):
        if isinstance(param, click.Option):
            param.hidden = False  # from the help, which is short
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record and "--help" not in record[0]:
            yield record


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def man(path: str, command: click.Command) -> str:
    """The page of one verb, for man(1)."""
    ctx = click.Context(command, info_name=path)
    prose, examples = _described(command)
    first = _roff(command.get_short_help_str(200) or path)
    lines = [
        f'.TH "{path.replace(" ", "-").upper()}" 1 "" "meshlb {__version__}" "meshlb"',
        f".SH NAME\n{_roff(path.replace(' ', '-'))} \\- {first}",
        f".SH SYNOPSIS\n.B {_roff(_usage(command, ctx))}",
        f".SH DESCRIPTION\n{_roff(prose)}" if prose else "",
    ]
    options = list(_options(command, ctx))
    if options:
        lines.append(".SH OPTIONS")
        lines += [f".TP\n.B {_roff(flag)}\n{_roff(' '.join(help_.split()))}" for flag, help_ in options]
    if examples:
        lines.append(f".SH EXAMPLES\n.nf\n{_roff(examples)}\n.fi")
    return "\n".join(line for line in lines if line) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in escaped.splitlines())


def write(reference: Path, folder: Path | None = None) -> None:
    """Writes the reference, and a page for each verb into `folder`."""
    reference.write_text(markdown(), encoding="utf-8")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for path, command in every_page():
            (folder / f"{path.replace(' ', '-')}.1").write_text(man(path, command), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
