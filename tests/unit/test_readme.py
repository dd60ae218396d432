"""The README's commands are those that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from meshlb.cli import main

README = Path(__file__).parents[2] / "README.md"
_COMMAND = re.compile(r"(?:\w+\$ )?(?:sudo )?(?:/opt/meshlb/bin/)?meshlb (.*)")


def commands() -> Iterator[str]:
    """What is typed after `meshlb`, of every line of the README's examples."""
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    for line in "".join(blocks).splitlines():
        for command in re.split(r"; | && ", line.partition(" #")[0]):
            match = _COMMAND.match(command.strip())
            if match:
                yield match[1].strip()


COMMANDS = sorted(set(commands()))


def parsed(typed: str) -> click.Context:
    """The verb's context; UsageError where it takes no such words."""
    command: click.Command = main
    words, context = shlex.split(typed), click.Context(main, info_name="meshlb")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no `meshlb {typed}`"
        command, words = found, words[1:]
    return command.make_context(typed, words)


@pytest.mark.parametrize("typed", COMMANDS)
def test_what_the_readme_says_can_be_typed(typed: str) -> None:
    parsed(typed)


def test_there_are_many() -> None:
    assert len(COMMANDS) >= 15, COMMANDS


@pytest.mark.parametrize("typed", ["service create --foo x", "promote pi2", "service scale"])
def test_what_cannot_be_typed_is_seen(typed: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        parsed(typed)
