"""The whole terminal for a while: the other screen, without a cursor, with keys as they are pressed.

However it ends (a key, an error, a signal), the terminal is then as it was. Ctrl-Z gives it back meanwhile.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_BEGIN, _END = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


class Terminal:
    """Standard output's terminal, and standard input's where that is one."""

    def __init__(self) -> None:
        self._keys = sys.stdin.isatty()
        self._before: list[Any] = termios.tcgetattr(sys.stdin) if self._keys else []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken = wake
        self._old_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in _ENDING:
            self._handle(number, self._end)
        self._handle(signal.SIGTSTP, self._stop)
        self._handle(signal.SIGWINCH, lambda *_: None)  # to wake us up
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wake)
        os.close(self._wake)
        os.close(self._woken)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as they are now."""
        return shutil.get_terminal_size()

    def draw(self, lines: Sequence[str]) -> None:
        """Show these and nothing else; they fit into the size."""
        *all_but_last, last = lines
        text = "".join(f"{line}\x1b[K\r\n" for line in all_but_last)
        sys.stdout.write(f"\x1b[H{text}{last}\x1b[K\x1b[J")
        sys.stdout.flush()

    def key(self, seconds: float) -> str:
        """A key that is pressed within the time; empty where none is, or when the size has changed."""
        watched = [self._wake, *([sys.stdin.fileno()] if self._keys else [])]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._wake in ready:
            os.read(self._wake, 4096)
        if sys.stdin.fileno() not in ready:
            return ""
        pressed = os.read(sys.stdin.fileno(), 1)
        self._keys = bool(pressed)  # at its end it would be ready for ever
        return pressed.decode(errors="replace")

    def _handle(self, number: int, handler: Any) -> None:
        self._handlers[number] = signal.signal(number, handler)

    def _end(self, number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # goes on from here with SIGCONT
        signal.signal(number, self._stop)
        self._take()

    def _take(self) -> None:
        if self._before:
            tty.setcbreak(sys.stdin)
        sys.stdout.write(_BEGIN)
        sys.stdout.flush()

    def _give_back(self) -> None:
        if self._before:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
        sys.stdout.write(_END)
        sys.stdout.flush()
