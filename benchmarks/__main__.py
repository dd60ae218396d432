"""`python -m benchmarks`, which scripts/bench calls when everything is installed."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.axes import AXES, try_axis
from benchmarks.compare import compare
from benchmarks.guard import why_not
from benchmarks.proxies import PEERS_BY_NAME, missing
from benchmarks.report import report
from benchmarks.results import Results, about, load
from benchmarks.scaling import SCALINGS
from benchmarks.share import why_not as why_no_share
from benchmarks.stage import Stage, stage

OUTPUT = Path("build/bench/results.json")
STAGES = ("wire-one", "wire-share", "loopback-one", "wire-all", "loopback-all")
QUICK = "wire-one"


@dataclass(frozen=True)
class Plan:
    """What a run measures."""

    stages: Sequence[tuple[str, str]]
    axes: Sequence[str]
    scalings: Sequence[str]
    peers: Sequence[str]
    rounds: int
    seconds: float


def run(plan: Plan, output: Path) -> int:
    """Measure, and write after each stage: an interrupted run keeps what it has."""
    results = Results(about("scripts/bench run " + shlex.join(sys.argv[2:])))
    problems: list[str] = []
    for number, (topology, cores) in enumerate(plan.stages):
        with stage(topology, cores, results, plan.seconds) as scene:
            problems += _rounds(scene, plan)
            results.save(output)
            if number == 0:
                problems += _scalings(scene, plan)
                results.save(output)
    for problem in problems:
        _say(f"not measured: {problem}")
    _say(f"{output}; scripts/bench report {output} shows it")
    return 1 if problems else 0


def _rounds(scene: Stage, plan: Plan) -> list[str]:
    problems = []
    with scene.targets(plan.peers) as targets:
        for number in range(plan.rounds):
            for name in plan.axes:
                _say(f"{scene.name}: round {number + 1} of {plan.rounds}, {name}")
                order = targets[number % len(targets) :] + targets[: number % len(targets)]
                problems += [problem for target in order if (problem := try_axis(AXES[name], scene, target))]
    return problems


def _scalings(scene: Stage, plan: Plan) -> list[str]:
    problems = []
    for name in plan.scalings:
        for number in range(1 if name == "exact" else plan.rounds):
            _say(f"{scene.name}: round {number + 1}, {name}")
            for peer in plan.peers:
                if peer == "kernel-dnat":
                    continue
                try:
                    SCALINGS[name](scene, PEERS_BY_NAME[peer])
                except (OSError, RuntimeError, ValueError) as error:
                    problems.append(f"{name} of {peer}: {error}")
    return problems


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _names(known: Sequence[str], given: str) -> list[str]:
    wanted = [name.strip() for name in given.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise SystemExit(f"{name} is not one of {', '.join(known)}")
    return wanted


def _stages(options: argparse.Namespace) -> list[tuple[str, str]]:
    wanted = [QUICK] if options.quick else _names(STAGES, options.stages)
    if "wire-share" in wanted and (reason := why_no_share()):
        _say(f"without the stage wire-share: {reason}")
        wanted.remove("wire-share")
    if not wanted:
        raise SystemExit("no stage is left to measure")
    return [(topology, cores) for topology, _, cores in (name.partition("-") for name in wanted)]


def _plan(options: argparse.Namespace) -> Plan:
    absent = missing()
    peers = [name for name in _names(list(PEERS_BY_NAME), options.peers) if name not in absent]
    if absent:
        _say(f"not on this machine, so left out: {', '.join(absent)}")
    return Plan(
        _stages(options),
        _names(list(AXES), options.axes),
        _names(list(SCALINGS), options.scalings),
        peers,
        options.rounds or (3 if options.quick else 5),
        options.seconds,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures meshlb beside its peers.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run", help="measure, and write a JSON file")
    running.add_argument(
        "--quick", action="store_true", help=f"{QUICK} alone, and three rounds instead of five"
    )
    running.add_argument("--stages", default=",".join(STAGES), help="of %(default)s")
    running.add_argument("--axes", default=",".join(AXES), help="of %(default)s")
    running.add_argument("--scalings", default=",".join(SCALINGS), help="of %(default)s; empty for none")
    running.add_argument("--peers", default=",".join(PEERS_BY_NAME), help="of %(default)s")
    running.add_argument("--rounds", type=int, default=0, help="how often everything is measured")
    running.add_argument("--seconds", type=float, default=1.0, help="of one measurement (%(default)s)")
    running.add_argument("--output", type=Path, default=OUTPUT, help="%(default)s")
    running.add_argument(
        "--anyway", action="store_true", help="though the machine is hot, busy or its disk full"
    )
    reporting = verbs.add_parser(
        "report", help="a run as Markdown, with plots beside it where --output names a file"
    )
    reporting.add_argument("results", type=Path)
    reporting.add_argument("--output", type=Path)
    comparing = verbs.add_parser("compare", help="two runs, figure by figure")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    return parser


def main(arguments: Sequence[str]) -> int:
    """The exit code: 1 where something could not be measured."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "report":
            return report(load(options.results), options.output)
        if options.verb == "compare":
            return compare(load(options.before), load(options.after))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    plan = _plan(options)
    reason = why_not(options.output)
    if reason and not options.anyway:
        raise SystemExit(f"{reason}; --anyway measures nevertheless")
    return run(plan, options.output)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell has background jobs ignore the first
        signal.signal(number, _interrupted)
    try:
        sys.exit(main(sys.argv[1:]))
    except RuntimeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; what was measured before is kept")
