"""A real terminal to look at: a command in tmux, on a server of its own, and what its screen shows."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from waiting import eventually

PATIENCE = 60.0  # seconds for a screen to show what it should, on a busy machine


class Screen:
    """One command in a terminal of so many columns and rows; the shell around it stays when it has ended."""

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        self._socket = folder / "tmux"
        # What tmux shows when the command has ended: how, and what is on the screen then.
        self._do("new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), "env PS1='$ ' TERM=screen sh")
        self._do("set-option", "-g", "status", "off")

    def type(self, *words: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a command, and say how it has ended."""
        settings = [f"{name}={value}" for name, value in (environment or {}).items()]
        self.enter(f'{shlex.join(["env", *settings, *words])}; echo "ended with $?"')

    def enter(self, line: str) -> None:
        """A line for the shell."""
        self._do("send-keys", "-l", line)
        self._do("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        """Keys by tmux' names: q, C-c, Enter."""
        self._do("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """As a user does who drags the window."""
        self._do("resize-window", "-x", str(columns), "-y", str(rows))

    def lines(self, colours: bool = False) -> list[str]:
        """What is on the screen now, without the blanks at the ends; colours as escapes."""
        text = self._do("capture-pane", "-p", *(["-e"] if colours else []))
        return [line.rstrip() for line in text.splitlines()]

    def until(self, holds: Callable[[list[str]], object], what: str, colours: bool = False) -> list[str]:
        """The screen, once that holds of it."""
        shown: list[str] = []

        def found() -> object:
            shown[:] = self.lines(colours)
            return holds(shown)

        try:
            eventually(found, timeout=PATIENCE, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen shows\n" + "\n".join(shown)) from None
        return shown

    def shows(self, *sentences: str, colours: bool = False) -> list[str]:
        """The screen, once all of them are on it."""
        return self.until(
            lambda lines: all(any(one in line for line in lines) for one in sentences),
            repr(sentences),
            colours,
        )

    def child(self) -> int:
        """The process of the command that runs."""
        shell = self.state("pane_pid")
        return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[-1])

    def state(self, name: str) -> str:
        """What tmux knows of the terminal, such as `alternate_on` or `cursor_flag`."""
        return self._do("display-message", "-p", f"#{{{name}}}").strip()

    def close(self) -> None:
        """End the server, and all that runs in it."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._do("kill-server")

    def _do(self, *words: str) -> str:
        command: Sequence[str] = ["tmux", "-f", "/dev/null", "-S", str(self._socket), *words]
        locale = {"LC_ALL": "C.UTF-8"}
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=PATIENCE, env=os.environ | locale
        ).stdout


@contextlib.contextmanager
def screen(folder: Path, columns: int = 120, rows: int = 30) -> Iterator[Screen]:
    """A terminal, gone at the end."""
    if not shutil.which("tmux"):
        pytest.skip("needs tmux")
    shown = Screen(folder, (columns, rows))
    try:
        yield shown
    finally:
        shown.close()
