"""What is typed and not shown: passwords, keys."""

from __future__ import annotations

import sys

import click

from meshlb.errors import ConfigError


def asked(what: str, *, twice: bool = False) -> str:
    """What is typed at a terminal, twice to be sure; without one, a line of standard input."""
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=True, confirmation_prompt=twice, err=True))
    try:
        return sys.stdin.readline().rstrip("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: standard input is not UTF-8") from None
