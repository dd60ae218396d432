"""Foreign text becomes something that a terminal can be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlb.text import printable, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("web", "web"),
        ("größe ✓", "größe ✓"),
        ("a\nb\x1b[2J", "a\\nb\\x1b[2J"),
        ("\u202e\u2028\x85\ud800", "\\u202e\\u2028\\x85\\ud800"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, line: str) -> None:
    assert printable(text) == line


@given(st.text(st.characters()), st.integers(1, 30))
def test_any_text_is_bounded_and_stays_what_it_is(text: str, longest: int) -> None:
    line = printable(text, longest)
    assert line.isprintable()
    assert len(line) <= longest + 1
    assert printable(line, longest + 1) == line


def test_a_value_of_any_size_and_depth_can_be_shown() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == shown(1 << 100_000) == "something too large to be shown"
    assert shown({"x": [1, None]}) == "{'x': [1, None]}"
    assert shown("x" * 101) == "x" * 100 + "…"
