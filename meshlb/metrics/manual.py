"""Writes docs/metrics.md from the families themselves: `python -m meshlb.metrics.manual FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from meshlb.metrics.backend import MOST
from meshlb.metrics.exposition import Head, head
from meshlb.metrics.families import families
from meshlb.metrics.usage import Usage
from meshlb.model import Node, Snapshot, SourceStatus, Status

_HEAD = f"""\
# Metrics

What `GET /metrics` of every agent tells, as text, OpenMetrics or protobuf by the Accept header, packed with
gzip where that is accepted. Written by `scripts/reference` from what the agent writes.
[examples/monitoring](../examples/monitoring/README.md) has rules, alerts and a dashboard for it.

Nothing is counted for Prometheus: a scrape reads what the workers count anyway, and its text is written in
a thread of its own, 200 ports with 50 backends each in about a tenth of a second, in two as protobuf.
Counters begin with the agent, those of a port or a backend with its place in the table; `rate()` and
`increase()` know that.
The age of the table is `time() - meshlb_table_changed_timestamp_seconds`.

**Cardinality.** On each node a published port has at most 100 series (78 of them in three histograms), a
backend of it at most 13, a worker 27, a node 2. Series of tasks and services that are gone are gone. With
more than {MOST} backends the others have none (`meshlb_backends_left_out`). Values of labels are cut at
128 characters; what cannot be printed is escaped. Buckets end at 2^-14 s (61 µs), 2^-13 s, … 2^8 s (256 s).

Of backends the times are summaries (`rate(…_sum) / rate(…_count)` is the mean): with buckets a port with 50
backends would have 4,350 series instead of 750; the page shows quantiles of each.

**Workers.** Of 64 turns of a worker's loop one is timed: `64 * rate(meshlb_worker_turn_seconds_sum[1m])` is
about the share of a core that it works, and a turn of many milliseconds is one that clients wait for.

**Native histograms.** A Prometheus that takes them asks for protobuf, the only format that has them, and
gets it: Debian's 2.42 with `--enable-feature=native-histograms`, 3.x with `scrape_native_histograms: true`.
They have the same buckets (schema 0), empty ones cost nothing, and `histogram_quantile(0.99, sum by (service)
(rate(meshlb_first_byte_seconds[5m])))` needs no `le`. The classic buckets are told beside them, and the rules
and the dashboard here ask for those: 2.42 keeps native ones alone then, newer ones both with
`scrape_classic_histograms: true`. Without any of that all is as it was. prometheus-client 0.26 cannot write
native histograms, in whatever format, so an own writer does.

Beside it: `/healthz` (503 while the agent ends or has nothing to go by), `/readyz` (503 also until the first
table is served, and while no port of it is), `/sd` (all nodes' agents, for `http_sd_configs`).

| metric | kind | labels | what it is |
|---|---|---|---|
"""


def manual() -> str:
    """The text of docs/metrics.md."""
    one = Snapshot(nodes=(Node("id", "node", "192.0.2.1"),))
    found = families(Status("", SourceStatus("swarm", connected=True), one), None, Usage())
    return _HEAD + "".join(_line(head(family)) for family in found)


def _line(of: Head) -> str:
    return f"| `{of.name}` | {of.kind} | {', '.join(of.labels)} | {of.help} |\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(manual(), encoding="utf-8")
