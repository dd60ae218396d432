"""`scripts/chaos`: plays the scenarios in full on a lab of its own, and ends with a table."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents import Agents
from aim import Seen, Verdict, judge
from front import Front, Meshlb
from haproxy import HAProxy
from scenario import Scenario, Stage
from scenarios import ALL

from meshlb.lab import Lab


@dataclasses.dataclass(frozen=True)
class Row:
    """One scenario and what came of it."""

    scenario: Scenario
    rounds: int
    verdict: Verdict
    seen: Seen | None


def arguments(words: Sequence[str]) -> argparse.Namespace:
    names = [scenario.name for scenario in ALL]
    parser = argparse.ArgumentParser("scripts/chaos", description="What users notice when things go wrong.")
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(names)}; all by default"
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="how often each is done, instead of its own number"
    )
    parser.add_argument("--against", choices=["haproxy"], help="play them against this instead of meshlb")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another label of the service: a policy",
    )
    parser.add_argument("--short", action="store_true", help="the short forms, which the tests use")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was seen there")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep what agents and engines say there")
    found = parser.parse_args(words)
    if unknown := set(found.scenarios) - set(names):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if found.rounds is not None and found.rounds < 1:
        parser.error(f"--rounds: {found.rounds} is not at least 1")
    return found


def main(words: Sequence[str]) -> int:
    wanted = arguments(words)
    signal.signal(signal.SIGTERM, _interrupt)
    rows: list[Row] = []
    with contextlib.suppress(KeyboardInterrupt), _stage(wanted) as stage:
        for scenario in ALL:
            if wanted.scenarios and scenario.name not in wanted.scenarios:
                continue
            rows.append(play(stage, scenario, wanted))
    if wanted.json:
        wanted.json.write_text(json.dumps([document(row) for row in rows], indent=1))
    print(table(rows))
    return 0 if rows and all(row.verdict.is_met for row in rows) else 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def play(stage: Stage, scenario: Scenario, wanted: argparse.Namespace) -> Row:
    """One scenario; whatever breaks it is its verdict."""
    rounds = wanted.rounds or (scenario.short if wanted.short else scenario.rounds)
    print(f"\n{scenario.name}: {scenario.what}, {rounds} times", flush=True)
    try:
        seen = stage.play(scenario, rounds)
    except (AssertionError, OSError, RuntimeError) as error:
        print(f"  broke off: {error}", flush=True)
        return Row(scenario, rounds, Verdict("", (f"broke off: {str(error)[:300]}",)), None)
    verdict = judge(scenario.aim.without(stage.front.untold), seen)
    if stage.spoilt and verdict.missed:
        verdict = dataclasses.replace(verdict, missed=(*verdict.missed, stage.spoilt))
    row = Row(scenario, rounds, verdict, seen)
    print(f"  {row.verdict.sentence}", *row.verdict.missed, sep="\n  MISSED: ", flush=True)
    return row


@contextlib.contextmanager
def _stage(wanted: argparse.Namespace) -> Iterator[Stage]:
    with _directory(wanted.logs) as directory, Lab.up(3, name=f"chaos-{os.getpid()}") as lab:
        front = _front(lab, directory, wanted)
        try:
            front.up(lab)
            yield Stage(lab, front, directory, wanted.short, _say)
        finally:
            front.down()


@contextlib.contextmanager
def _directory(wanted: Path | None) -> Iterator[Path]:
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
            yield Path(scratch)
    else:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted


def _front(lab: Lab, directory: Path, wanted: argparse.Namespace) -> Front:
    return HAProxy() if wanted.against == "haproxy" else Meshlb(Agents(lab, directory), wanted.label)


def _say(line: str) -> None:
    print(f"  {datetime.now(UTC):%H:%M:%S} {line}", flush=True)


def table(rows: Sequence[Row]) -> str:
    """The rows as text, a line for each and one for each thing that was missed."""
    lines = [f"\n{'SCENARIO':<20}{'TIMES':>6}  {'VERDICT':<8}SEEN"]
    for row in rows:
        verdict = "met" if row.verdict.is_met else "MISSED"
        lines.append(f"{row.scenario.name:<20}{row.rounds:>6}  {verdict:<8}{row.verdict.sentence}")
        lines += [f"{'':<36}{missed}" for missed in row.verdict.missed]
    return "\n".join(lines)


def document(row: Row) -> dict[str, Any]:
    """What is written to --json."""
    seen = row.seen
    found: dict[str, Any] = {
        "scenario": row.scenario.name,
        "what": row.scenario.what,
        "rounds": row.rounds,
        "met": row.verdict.is_met,
        "missed": row.verdict.missed,
        "sentence": row.verdict.sentence,
    }
    if seen:
        found |= {
            "seconds": seen.seconds,
            "attempts": seen.attempts,
            "failed": seen.failed,
            "caught": len(seen.caught),
            "rate": seen.rate,
            "slowest": seen.slowest,
            "p50": seen.short.percentile(50, seen.at),
            "p99": seen.short.percentile(99, seen.at),
            "lost": len(seen.lost),
            "ended": len(seen.ended),
            "measured": dict(seen.measured),
            "found": dict(seen.found),
            "failures": [dataclasses.asdict(failure) for failure in [*seen.failures, *seen.lost][:200]],
        }
    return found


if __name__ == "__main__":
    began = time.monotonic()
    code = main(sys.argv[1:])
    print(f"\n{time.monotonic() - began:.0f} s")
    sys.exit(code)
