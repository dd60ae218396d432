"""The agent's command line and environment: a Config, or an error of click's.

Input: the arguments, one a line; a line `MESHLB_X=value` is put into the environment instead.
"""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import click

from meshlb.config import LEVELS, LOG_FORMATS, LOOPS, TAKEOVERS, Config, options, split_address

WORDS = tuple(
    word
    for name in Config.__dataclass_fields__
    for word in (f"--{name.replace('_', '-')}\n", f"\nMESHLB_{name.upper()}=")
)

_SAID = ("--help", "--version")  # they print and end


@click.command()
@options
def _command(check: bool, keeper: bool, replace: bool, **settings: Any) -> tuple[bool, Config]:
    return check, Config(**settings)


def check(data: bytes) -> None:
    """`ADDRESS:PORT` on its own, then everything together."""
    lines = data.decode(errors="replace").replace("\0", "").split("\n")
    for line in lines:
        _check_address(line)
    variables = dict(line.split("=", 1) for line in lines if line.startswith("MESHLB_") and "=" in line)
    arguments = [line for line in lines if line and not line.startswith(("MESHLB_", *_SAID))]
    with mock.patch.dict(os.environ, {key: value for key, value in variables.items() if key.isidentifier()}):
        try:
            found = _command.main(arguments, prog_name="agent", standalone_mode=False)
        except click.ClickException:
            return
    _check_config(found[1])


def _check_address(text: str) -> None:
    try:
        host, port = split_address(text)
    except ValueError:
        return
    assert 0 <= port <= 65535
    assert host, "an empty host would be every address"
    assert not host.startswith("["), host
    assert split_address(f"[{host}]:{port}") == (host, port)


def _check_config(config: Config) -> None:
    for text in (config.http, config.peers):
        assert not text or split_address(text)
    assert 0 <= config.workers <= 256
    assert 0 <= config.drain <= 86400
    assert config.takeover in TAKEOVERS
    assert config.log_format in LOG_FORMATS
    assert config.log_level in LEVELS
    assert config.loop in LOOPS
