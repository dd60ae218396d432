"""A run as one page of Markdown: verdicts first, then every figure, and plots where matplotlib is there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.aims import EXHAUSTED, judged
from benchmarks.plots import ORDER, draw
from benchmarks.results import Key, Results, rows
from benchmarks.share import SHARE

INTRODUCTION = """# Benchmarks

Written by `scripts/bench report`. Each figure is the median of interleaved rounds in one run, with half
the distance between the quartiles as a share of it. **direct** is the server without a proxy,
**kernel-dnat** an address rewritten by nftables: the limits, not peers. The configurations are in
[peers/](peers). Stages: on the *wire* client, proxy and server are in network namespaces with veth
cables, on *loopback* all on one host; with *one* the proxies have one core and everything else the
others, with *share* they have SHARE of that core (a cgroup's quota), with *all* everything runs anywhere.
Who was the bottleneck is told by *idle*: with one core each, a proxy that had nothing left while the ends
(load generator and server) had is the limit; where the ends had nothing left either, rates are squeezed
together, and CPU for each connection says more. That is what *share* is for: there the ends always have
something left, as clients and servers on other machines have, and a rate is the proxy's own. Answer times
there are mostly those of a proxy that waits for its share. To measure again: `scripts/bench run`, or
`scripts/bench run --quick` for one stage. `scripts/bench compare A B` puts two runs beside each other. On
a Raspberry Pi it is the same command, `sudo scripts/bench run --output pi.json`: it refuses to measure a
board that is hot, throttled or full, and writes down which board it was.
""".replace("SHARE", f"{SHARE:.0%}")


VERDICTS = f"""Its median over the best peer's: HAProxy with and without splice and nginx, unless one is
named. *By exhausted ends*: while meshlb was measured, load generator and server had less than
{EXHAUSTED:g} % of their cores left, so that it could not have shown more.
"""


def report(results: Results, output: Path | None) -> int:
    """Print it, or write it to a file with its plots beside it."""
    plots = draw(results, output.parent / "plots") if output else []
    text = "\n".join(lines(results, plots)) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text)
    return 0


def lines(results: Results, plots: list[str]) -> Iterator[str]:
    """The page."""
    yield INTRODUCTION
    yield "| the run | |\n|---|---|"
    yield from (f"| {name} | {value} |" for name, value in results.about.items() if value)
    yield "\n## Where meshlb stands\n"
    yield VERDICTS
    yield from _verdicts(results)
    yield from (f"\n![{plot.removesuffix('.svg')}](plots/{plot})" for plot in plots)
    for stage in dict.fromkeys(key.stage for key in results.samples):
        yield f"\n## {stage}\n"
        yield from _table(results, stage)


def _verdicts(results: Results) -> Iterator[str]:
    yield "| | stage | ratio | floor | aim | |\n|---|---|---|---|---|---|"
    words = {"aim": "reached", "floor": "above the floor", "missed": "**missed**"}
    for found in judged(results):
        aim = found.aim
        figures = f"{found.ratio:.2f} | {aim.floor:g} | {aim.aim:g}"
        note = ", by exhausted ends" if found.capped and found.verdict == "missed" else ""
        yield f"| {aim.what} | {found.stage} | {figures} | {words[found.verdict]}{note} |"


def _table(results: Results, stage: str) -> Iterator[str]:
    of_stage = [(key, peers) for key, peers in rows(results) if key.stage == stage]
    names = [name for name in ORDER if any(name in peers for _, peers in of_stage)]
    yield "| | | " + " | ".join(names) + " |"
    yield "|---|---" + "|---" * len(names) + "|"
    for key, peers in of_stage:
        yield f"| {key.axis} | {_what(key)} | " + " | ".join(_cell(peers.get(name)) for name in names) + " |"


def _what(key: Key) -> str:
    return f"{key.measure}, {key.unit}"


def _cell(found: tuple[float, float] | None) -> str:
    if found is None:
        return ""
    value, spread = found
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} ±{spread:.0%}" if spread >= 0.005 else text
