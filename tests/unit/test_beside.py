"""scripts/beside.sh: parts run beside each other, every failure counts, and no part outlives an interrupt."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PRELUDE = f"""
set -euo pipefail
say() {{ echo "$*" >&2; }}
die() {{ say "$*"; exit 1; }}
source {SCRIPTS / "beside.sh"}
"""
WAITS = "trap 'echo took down; exit 2' INT; echo waits; while :; do sleep 0.01; done"


def begin(*lines: str) -> subprocess.Popen[str]:
    script = PRELUDE + "\n".join((*lines, "finish", "echo all passed"))
    pipe = subprocess.PIPE
    return subprocess.Popen(["bash", "-c", script], stdout=pipe, stderr=pipe, text=True)


def test_they_run_at_the_same_time_and_their_lines_bear_their_names(tmp_path: Path) -> None:
    """Each waits for the other."""
    one = f"touch {tmp_path}/one; until [ -e {tmp_path}/two ]; do sleep 0.01; done; echo here; echo there >&2"
    two = f"touch {tmp_path}/two; until [ -e {tmp_path}/one ]; do sleep 0.01; done"
    with begin(f"beside first bash -c '{one}'", f"beside second bash -c '{two}'") as script:
        out, errors = script.communicate(timeout=30)
    assert script.returncode == 0
    assert out == "first | here\nfirst | there\nall passed\n"
    assert "first: passed" in errors


@pytest.mark.parametrize("failing", ["first", "second"])
def test_one_that_fails_is_named_and_the_others_go_on(failing: str) -> None:
    lines = {
        name: f"beside {name} bash -c 'sleep 0.0{length}; echo {name}; exit {3 * (name == failing)}'"
        for length, name in enumerate(("first", "second"))
    }
    with begin(*lines.values()) as script:
        out, errors = script.communicate(timeout=30)
    assert script.returncode == 1
    *of_both, again = out.splitlines()
    assert sorted(of_both) == ["first | first", "second | second"]
    assert again == f"{failing} | {failing}", "what the others' lines hide is told again"
    assert f"{failing}: FAILED with exit status 3" in errors
    assert errors.splitlines()[-1] == f"FAILED: {failing}"


@pytest.mark.parametrize(
    ("number", "sigint"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_IGN),
        (signal.SIGHUP, signal.SIG_DFL),
    ],
)
def test_an_interrupt_reaches_all_and_is_waited_for(number: signal.Signals, sigint: signal.Handlers) -> None:
    """Whoever starts us in the background may have SIGINT ignored; parts get it all the same."""
    before = signal.signal(signal.SIGINT, sigint)
    try:
        script = begin(*(f'beside {name} bash -c "{WAITS}"' for name in ("first", "second")))
    finally:
        signal.signal(signal.SIGINT, before)
    with script:
        assert script.stdout
        waiting = {script.stdout.readline() for _ in range(2)}
        script.send_signal(number)
        out, _ = script.communicate(timeout=30)
    assert waiting == {"first | waits\n", "second | waits\n"}
    assert sorted(out.splitlines()) == ["first | took down", "second | took down"]
    assert script.returncode == 130


def test_an_interrupt_while_a_part_begins_reaches_it_and_no_other_begins(tmp_path: Path) -> None:
    """`set +m` is what follows the part's start."""
    now = 'set() { builtin set "$@"; if [ "$*${#PART_OF[@]}" = +m0 ]; then kill -INT $$; fi; }'
    first = "trap 'exit 2' INT; for _ in {1..1000}; do sleep 0.01; done; echo left alone"
    with begin(now, f'beside first bash -c "{first}"', f"beside second touch {tmp_path}/second") as script:
        out, _ = script.communicate(timeout=60)
    assert (script.returncode, out) == (130, "")
    assert not (tmp_path / "second").exists()
