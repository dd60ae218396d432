"""Compares the inside's instruction counts with those that were saved: see `compare` beside this file."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import instructions
from cases import CASES

from meshlb.policy import BALANCERS

SAVED = Path(__file__).with_name("baseline.json")
WORSE = 1.03  # of Python, which counts the same each time, to 0.3 %, for the same code
WORSE_CONNECTION = 1.05  # of the plane, whose turns differ a little: 1 % from run to run
PLANE = "connection, "


def baseline() -> dict[str, Any]:
    """What was saved; nothing at the first time."""
    found: dict[str, Any] = {"programs": programs(), "instructions": {}}
    return {**found, **json.loads(SAVED.read_text())} if SAVED.exists() else found


def programs() -> dict[str, str]:
    """Whose instructions are counted, beside ours: with others, the counts are others."""
    compiler = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True)
    version = f"{platform.python_implementation()} {platform.python_version()}"
    return {"python": version, "gcc": compiler.stdout.strip(), "machine": platform.machine()}


def count(wanted: list[str]) -> Iterator[tuple[str, int]]:
    """Each case's instructions; those of no wanted word are left out."""
    for name in [*CASES, *(PLANE + balancer for balancer in BALANCERS)]:
        if wanted and not any(word in name for word in wanted):
            continue
        balancer = name.removeprefix(PLANE)
        yield name, instructions.of_case(name) if balancer == name else instructions.of_connection(balancer)


def verdict(name: str, before: int | None, now: int) -> tuple[str, bool]:
    """The line about a case, and whether it is worse than what is allowed."""
    if before is None:
        return f"{name:26} {now:>13,}  not in the baseline", False
    ratio, limit = now / before, WORSE_CONNECTION if name.startswith(PLANE) else WORSE
    word = "WORSE" if ratio > limit else "better" if ratio < 1 / limit else ""
    return f"{name:26} {now:>13,}  was {before:>13,}  {ratio:6.3f}  {word}".rstrip(), ratio > limit


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/inside/compare", description=__doc__)
    parser.add_argument("--save", action="store_true", help="these counts are the baseline from now on")
    parser.add_argument("case", nargs="*", help="only cases with one of these words in their name")
    options = parser.parse_args()
    saved = baseline()
    if saved["programs"] != programs():
        print(f"the baseline is of {saved['programs']}, this is {programs()}: ratios tell of them, too")
    failed, counts = False, dict(saved["instructions"])
    for name, now in count(options.case):
        line, worse = verdict(name, saved["instructions"].get(name), now)
        print(line, flush=True)
        counts[name], failed = now, failed or worse
    if options.save:
        SAVED.write_text(json.dumps({"programs": programs(), "instructions": counts}, indent=1) + "\n")
    elif failed:
        sys.exit("some cases take more instructions; if that is meant, --save")


if __name__ == "__main__":
    main()
