"""The agent's command line and its environment become a Config."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from meshlb.agent import main
from meshlb.config import Config, options, split_address


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own environment has some."""
    for name in [name for name in os.environ if name.startswith("MESHLB_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("meshlb")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def parse(*arguments: str, **environment: str) -> Config | Result:
    """The Config, or the outcome when there is none."""
    found: list[Config] = []

    @click.command()
    @options
    def command(check: bool, keeper: bool, replace: bool, **settings: Any) -> None:
        found.append(Config(**settings))

    result = CliRunner().invoke(command, arguments, env=environment)
    return found[0] if found else result


def test_the_defaults_of_the_command_line_are_those_of_the_class() -> None:
    assert parse() == Config()


@pytest.mark.parametrize("text", ["", "off"])
def test_no_state_directory(text: str) -> None:
    found = parse("--state-dir", text)
    assert isinstance(found, Config)
    assert found.state_dir is None


def test_every_field_is_an_option_and_an_environment_variable() -> None:
    texts = {
        "config": "mesh.toml",
        "http": "[::1]:80",
        "peers": "[::1]:81",
        "state_dir": "/state",
        "workers": "3",
        "takeover": "never",
        "drain": "1.5",
        "log_format": "json",
        "log_level": "debug",
        "loop": "asyncio",
        "socket": "/tmp/agent.sock",
        "linger": "2.5",
        "http_certificate": "page.crt",
        "http_key": "page.key",
        "http_users": "users",
        "host_root": "/host",
    }
    assert set(texts) == set(Config.__dataclass_fields__)
    wanted = Config(
        Path("mesh.toml"),
        "[::1]:80",
        "[::1]:81",
        Path("/state"),
        3,
        "never",
        1.5,
        "json",
        "debug",
        "asyncio",
        Path("/tmp/agent.sock"),
        2.5,
        Path("page.crt"),
        Path("page.key"),
        Path("users"),
        Path("/host"),
    )
    assert parse(*(f"--{name.replace('_', '-')}={text}" for name, text in texts.items())) == wanted
    assert parse(**{f"MESHLB_{name.upper()}": text for name, text in texts.items()}) == wanted


@pytest.mark.parametrize("text", ["", "off"])
def test_http_can_be_switched_off(text: str) -> None:
    assert parse("--http", text) == Config(http="")


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--http", ":80", '":80" is not ADDRESS:PORT; write for example 127.0.0.1:9377'),
        ("--http", "::1:80", '"::1:80" is not ADDRESS:PORT'),
        ("--http", "127.0.0.1:65536", "is not ADDRESS:PORT"),
        ("--http", "127.0.0.1", "is not ADDRESS:PORT"),
        ("--workers", "-1", "-1 is not in the range 0<=x<=256"),
        ("--drain", "nan", "nan"),
        ("--drain", "-1", "-1.0 is not in the range"),
        ("--takeover", "perhaps", "'perhaps' is not one of 'auto', 'always', 'never'"),
        ("--log-level", "loud", "'loud' is not one of 'debug'"),
        ("--log-format", "xml", "'xml' is not one of 'text', 'json'"),
    ],
)
def test_bad_values_are_usage_errors_that_say_what_is_allowed(option: str, value: str, reason: str) -> None:
    result = parse(option, value)
    assert isinstance(result, Result)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert option in result.stderr


def test_addresses_are_split() -> None:
    assert split_address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert split_address("[::1]:9377") == ("::1", 9377)
    assert split_address("localhost:1") == ("localhost", 1)


@pytest.mark.parametrize(
    "text", ["[]:1", ":1", "[:1", "]:1", "[::1:1", "[[::1]]:1", "::1:1", "a]:1", "a:65536"]
)
def test_what_is_no_address_and_port(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        split_address(text)


def agent(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={})


def test_check_says_that_a_file_is_good(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[[port]]\npublished = 80\nbackends = ["10.0.0.1:1"]\n')
    result = agent("--check", "--config", str(file))
    assert (result.exit_code, result.output) == (0, f"{file}: ok, 1 port\n")


def test_check_says_what_is_wrong_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("[[port]]\npublished = 0\n")
    result = agent("--check", "--config", str(file))
    assert result.exit_code == 1
    assert result.stderr == f"meshlb-agent: {file}:1: this [[port]] has no backends; add it\n"
    file.write_text('[[port]]\npublished = 80\nbackends = ["10.0.0.1:1"]\n' * 2)
    result = agent("--check", "--config", str(file))
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"meshlb-agent: {file}: service port-80: port 80/tcp is already published"
    )


def test_check_without_a_file_is_a_usage_error() -> None:
    result = agent("--check")
    assert result.exit_code == 2
    assert "--check needs --config FILE" in result.stderr


def test_a_bad_file_ends_the_agent_with_one_sentence(tmp_path: Path) -> None:
    result = agent("--config", str(tmp_path / "none.toml"))
    assert result.exit_code == 1
    assert result.stderr == (
        f"meshlb-agent: {tmp_path}/none.toml: cannot be read: No such file or directory\n"
    )


def test_help_and_version() -> None:
    result = agent("--help")
    assert result.exit_code == 0
    for option in ("--config FILE", "--http ADDRESS:PORT", "--takeover", "MESHLB_DRAIN", "SIGTERM"):
        assert option in result.output
    assert agent("--version").output.startswith("meshlb-agent, version ")


@pytest.mark.parametrize(("started", "waits"), [(os.getpid(), [5.0]), (1, []), (None, [])])
def test_what_lasts_is_not_tried_again_ten_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: int | None, waits: list[float]
) -> None:
    """systemd starts an agent that it has started again at once, for the sake of crashes."""
    monkeypatch.delenv("SYSTEMD_EXEC_PID", raising=False)
    if started is not None:
        monkeypatch.setenv("SYSTEMD_EXEC_PID", str(started))
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    assert agent("--config", str(tmp_path / "none.toml")).exit_code == 1
    assert waited == waits
