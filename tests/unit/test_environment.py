"""The environment of an agent's replacement: what its unit's file says now."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshlb.handover.environment import FILE, from_file, parsed, renewed


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("# A=1\n  ; B=2\n\n\t C=3\n", {"C": "3"}),
        ("A=\nB=2", {"A": "", "B": "2"}),
        ("A=1\nA=2", {"A": "2"}),
        ("  A =  one two \t\r\nB=2\r\n", {"A": "one two", "B": "2"}),
        ("A=b=c # d ; e", {"A": "b=c # d ; e"}),
        ("A='one  # two '\nB=\" three\"  \n", {"A": "one  # two ", "B": " three"}),
        ("A='one' \"two\"three", {"A": "onetwothree"}),
        ("A=5\" disk's\nB=2", {"A": "5\" disk's", "B": "2"}),
        ("A=one\\\n  two\nB=2", {"A": "one  two", "B": "2"}),
        ('A="one\\\ntwo\nthree"\nB=2', {"A": "onetwo\nthree", "B": "2"}),
        ('A="\\"\\$\\`\\\\\\n"', {"A": '"$`\\\\n'}),
        ("A='\\'\nB=a\\b\\\\", {"A": "\\", "B": "ab\\"}),
        ("export A=1\nno line\n=x\n1B=2\nC=3", {"C": "3"}),
    ],
)
def test_a_file_is_read_as_systemd_reads_it(text: str, found: dict[str, str]) -> None:
    assert parsed(text) == found


def test_what_the_file_said_before_gives_way_to_what_it_says_now(tmp_path: Path) -> None:
    file = tmp_path / "meshlb-agent"
    file.write_text("MESHLB_DRAIN=5\nHTTPS_PROXY=a\n")
    own = {FILE: str(file), "PATH": "/bin", "MESHLB_HTTP": "off", "MESHLB_DRAIN": "5", "HTTPS_PROXY": "a"}
    before = from_file(own)
    assert renewed(own, before) == own
    file.write_text(f"MESHLB_LINGER=6\n{FILE}=/other\n")
    kept = {FILE: str(file), "PATH": "/bin", "MESHLB_HTTP": "off"}
    assert renewed(own, before) == {**kept, "MESHLB_LINGER": "6"}
    file.unlink()
    assert renewed(own, before) == kept


def test_without_a_file_all_stays_as_it_is() -> None:
    own = {"PATH": "/bin", "MESHLB_DRAIN": "5"}
    assert renewed(own, from_file(own)) == own


def test_a_file_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        renewed({FILE: str(tmp_path)}, {})
