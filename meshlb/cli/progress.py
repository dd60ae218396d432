"""A service's progress on the screen: bars that move on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TextIO

import click

from meshlb.cluster.convergence import STATES, Bar, Frame

_LONGEST_STATE = max(len(state) for state in STATES)
_WIDEST_BAR = 50


def show(frames: Iterable[Frame], name: str, out: TextIO, *, quiet: bool = False) -> bool:
    """Shows the frames until they end; whether they have. Ctrl-C ends the showing, and is no failure."""
    try:
        if quiet:
            for _ in frames:
                pass
        elif out.isatty():
            _terminal(frames, out)
        else:
            _plain(frames, out)
    except KeyboardInterrupt:
        click.echo("\nOperation continuing in background.", err=True)
        click.echo(f"Use `meshlb service ps {name}` to check progress.", err=True)
        return False
    return True


def _plain(frames: Iterable[Frame], out: TextIO) -> None:
    said: dict[str, str] = {}
    for frame in frames:
        for key, line in lines(frame, bar=lambda _: ""):
            if said.get(key) != line:
                said[key] = line
                out.write(f"{line}\n")
        out.flush()


def lines(frame: Frame, bar: Callable[[Bar], str]) -> Iterator[tuple[str, str]]:
    """The frame's lines, each with a key that stays the same from frame to frame.

    `bar` draws a task's progress; a task whose bar is empty has a line only for its error.
    """
    yield "overall", frame.overall
    if frame.second:
        yield "second", frame.second
    for task in frame.bars:
        text = task.error or bar(task)
        if text:
            yield task.label, f"{task.label}: {text}"
    if frame.verify:
        yield "verify", frame.verify


def draw(task: Bar, width: int) -> str:
    """A task's state and bar in a terminal of `width` columns, as docker draws them."""
    room = min(_WIDEST_BAR, width - len(task.label) - _LONGEST_STATE - 8)
    state = task.state.ljust(_LONGEST_STATE)
    if not task.state or room < 10:
        return state
    filled = room * task.done // task.of
    return f"{state} [{'=' * filled}>{' ' * (room - filled)}]"


def _terminal(frames: Iterable[Frame], out: TextIO) -> None:
    height = 0
    for frame in frames:
        text = screen(frame, *shutil.get_terminal_size())
        # back to the first line of the last frame, each line cleared before it is written anew
        out.write((f"\x1b[{height}A" if height else "") + "".join(f"\r\x1b[2K{line}\n" for line in text))
        out.write("\x1b[J")
        out.flush()
        height = len(text)


def screen(frame: Frame, width: int, rows: int) -> list[str]:
    """The frame's lines on a terminal of that size; without bars where they would scroll."""
    if len(frame.bars) + 3 + bool(frame.second) > rows:
        frame = replace(frame, bars=())
    return [line[: width - 1] for _, line in lines(frame, lambda task: draw(task, width))]
