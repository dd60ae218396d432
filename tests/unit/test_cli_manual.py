"""The reference and the man pages are what the parser says; shells complete its words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshlb.cli import VERBS, main
from meshlb.cli.manual import every_page, man, markdown, write

ROOT = Path(__file__).parents[2]


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs/cli.md").read_text() == markdown(), "run scripts/reference"


def test_every_verb_has_its_page(tmp_path: Path) -> None:
    write(tmp_path / "cli.md", tmp_path / "man")
    found = {page.name for page in (tmp_path / "man").iterdir()}
    verbs = {f"meshlb-{name}.1" for group in VERBS.values() for name in group}
    assert verbs | {"meshlb.1", "meshlb-service-create.1", "meshlb-node-ls.1"} <= found
    for path, command in every_page():
        assert command.help, path


@pytest.mark.skipif(not shutil.which("man"), reason="needs man")
def test_man_reads_the_pages(tmp_path: Path) -> None:
    page = tmp_path / "page.1"
    for path, command in every_page():
        page.write_text(man(path, command))
        done = subprocess.run(
            ["man", "--warnings", "-l", str(page)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ},
        )
        assert done.stderr == "", path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert (result.exit_code, "_MESHLB_COMPLETE" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("meshlb ", 1, "service"),
        ("meshlb service cre", 2, "create"),
        ("meshlb service create --bal", 3, "--balance"),
        ("meshlb service update --update-or", 3, "--update-order"),
        ("meshlb node update --role ", 4, "manager"),
    ],
)
def test_words_are_completed(words: str, place: int, expected: str) -> None:
    environment = os.environ | {
        "_MESHLB_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(place),
    }
    done = subprocess.run(
        [sys.executable, "-m", "meshlb"], env=environment, capture_output=True, text=True, check=False
    )
    assert f"plain,{expected}" in done.stdout.splitlines(), done.stderr
