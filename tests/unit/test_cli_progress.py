"""Progress on a terminal and elsewhere."""

import io
from collections.abc import Iterator

import pytest

from meshlb.cli.progress import draw, screen, show
from meshlb.cluster.convergence import Bar, Frame

FRAMES = [
    Frame("overall progress: 0 out of 2 tasks", (Bar("1/2", "starting", 8), Bar("2/2"))),
    Frame("overall progress: 0 out of 2 tasks", (Bar("1/2", "starting", 8), Bar("2/2", error="boom"))),
    Frame("overall progress: 0 out of 2 tasks", (Bar("1/2", "starting", 8), Bar("2/2", error="boom"))),
    Frame(
        "overall progress: 2 out of 2 tasks",
        (Bar("1/2", "running", 9), Bar("2/2", "running", 9)),
        "verify: ok",
    ),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_each_line_is_said_once() -> None:
    out = io.StringIO()
    show(FRAMES, "web", out)
    assert out.getvalue().splitlines() == [
        "overall progress: 0 out of 2 tasks",
        "2/2: boom",
        "overall progress: 2 out of 2 tasks",
        "verify: ok",
    ]


def test_quiet_says_nothing() -> None:
    out = io.StringIO()
    show(FRAMES, "web", out, quiet=True)
    assert out.getvalue() == ""


def test_a_terminal_shows_each_frame_over_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    out = Terminal()
    show(FRAMES[2:], "web", out)
    first, second = out.getvalue().split("\x1b[3A")
    assert first.splitlines()[0] == "\r\x1b[2Koverall progress: 0 out of 2 tasks".removeprefix("\r") or first
    assert "2/2: boom" in first
    assert "2/2: running   [==================================================>]" in second
    assert second.endswith("verify: ok\n\x1b[J")


def test_bars_fit_the_terminal() -> None:
    task = Bar("1/2", "starting", 8)
    assert draw(task, 120) == f"starting  [{'=' * 44}>{' ' * 6}]"
    assert len(f"1/2: {draw(task, 40)}") < 40
    assert draw(task, 20) == "starting "
    frame = Frame("overall progress: 0 out of 9 tasks", tuple(Bar(f"{n}/9", "new", 1) for n in range(9)))
    assert len(screen(frame, 100, 30)) == 10
    assert len(screen(frame, 100, 10)) == 1
    assert max(len(line) for line in screen(frame, 30, 30)) < 30


def test_ctrl_c_leaves_the_operation_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> Iterator[Frame]:
        yield FRAMES[0]
        raise KeyboardInterrupt

    show(interrupted(), "web", io.StringIO())
    error = capsys.readouterr().err
    assert "Operation continuing in background." in error
    assert "Use `meshlb service ps web` to check progress." in error
