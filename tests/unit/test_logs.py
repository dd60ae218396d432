"""Log records are lines that can be read, parsed and trusted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from written import Written

from meshlb import logs
from meshlb.logs import RepeatFilter
from meshlb.text import LONGEST


@pytest.fixture(autouse=True)
def untouched_root() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("meshlb")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    for each in root.handlers:
        if each not in handlers:
            each.close()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def output(style: str, level: str = "info") -> tuple[logging.Logger, Written]:
    return logging.getLogger("meshlb.test"), Written(style, level)


def failing() -> None:
    raise ValueError("first\n2026-11-23T00:00:00.000Z INFO    forged")


def test_text_is_time_level_message_and_details() -> None:
    log, stream = output("text")
    log.info(
        "port %s: serving", "80/tcp", extra=logs.fields(port="80/tcp", service="a web", count=3, none="")
    )
    stamp, rest = stream.getvalue().split(" ", 1)
    assert stamp.endswith("Z")
    assert len(stamp) == len("2026-11-23T09:31:02.123Z")
    # The port is in the message already.
    assert rest == 'INFO    port 80/tcp: serving service="a web" count=3 none=""\n'


def test_json_is_one_object_per_line() -> None:
    log, stream = output("json")
    log.warning("careful\nnow", extra=logs.fields(service="web", level="forged", odd=object))
    line = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning",
        "message": "careful\\nnow",
        "logger": "meshlb.test",
        "service": "web",
        "odd": "<class 'object'>",
    }


@pytest.mark.parametrize(
    "evil", ["a\nb", "a\r\nb", "a\x1b[2Jb", "a\u2028b", "a\u202eb", "a\x85b", "a\ud800b"]
)
@pytest.mark.parametrize("style", ["text", "json"])
def test_no_name_can_forge_a_line_or_speak_to_the_terminal(style: str, evil: str) -> None:
    log, stream = output(style)
    log.info("service %s", evil, extra=logs.fields(name=evil))
    text = stream.getvalue()
    assert text.isascii()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_field_s_name_cannot_forge_a_line_either(style: str) -> None:
    log, stream = output(style)
    log.info("x", extra={"fields": {"a\nb": 1}})
    assert len(stream.getvalue().splitlines()) == 1


def test_a_traceback_is_indented_below_its_line() -> None:
    log, stream = output("text")
    try:
        failing()
    except ValueError:
        log.exception("it broke")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("ERROR   it broke")
    assert len(others) > 3
    assert all(line.startswith("    ") for line in others)


def test_a_traceback_is_a_member_in_json() -> None:
    log, stream = output("json")
    try:
        failing()
    except ValueError:
        log.exception("it broke")
    assert "ValueError: first\n" in json.loads(stream.getvalue())["traceback"]


def test_long_messages_are_cut() -> None:
    log, stream = output("text")
    log.info("%s", "x" * 100_000)
    assert len(stream.getvalue()) < LONGEST + 100


def test_levels_are_ours_and_others_are_quiet() -> None:
    log, stream = output("text", "debug")
    log.debug("ours")
    logging.getLogger("urllib3").info("theirs")
    logging.getLogger("aiohttp.server").warning("their warning")
    assert [line.split("   ")[-1].split()[-1] for line in stream.getvalue().splitlines()] == [
        "ours",
        "warning",
    ]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(text: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord("meshlb.test", logging.INFO, "", 0, text, values, None)


def test_an_equal_text_passes_three_times_in_the_window_and_is_counted_after_it() -> None:
    clock = Clock()
    repeat = RepeatFilter(texts=3, window=30, clock=clock)
    assert [repeat.filter(record("again")) for _ in range(10)] == [True] * 3 + [False] * 7
    assert repeat.filter(record("another"))
    clock.now = 30
    later = record("again")
    assert repeat.filter(later)
    assert getattr(later, "fields", None) == {"suppressed": 7}
    fresh = record("again")
    assert repeat.filter(fresh)
    assert getattr(fresh, "fields", None) is None


def test_one_call_with_ever_other_arguments_is_bounded_too() -> None:
    repeat = RepeatFilter(templates=5, clock=Clock())
    assert sum(repeat.filter(record("reset by %s", number)) for number in range(100)) == 5


def test_what_is_remembered_is_bounded() -> None:
    repeat = RepeatFilter(clock=Clock())
    for number in range(3 * RepeatFilter.REMEMBERED):
        repeat.filter(record(f"text {number}"))
    assert len(repeat._seen) == RepeatFilter.REMEMBERED
