"""`meshlb service logs`: what the tasks of a service print."""

from __future__ import annotations

import sys

import click

from meshlb.cli import complete
from meshlb.cli.parameters import Parsed
from meshlb.cli.program import Connection, Verb
from meshlb.cluster import task_log
from meshlb.cluster.task_log import Line, Source, Sources, Wanted


@click.command("logs", cls=Verb, options_metavar="[OPTIONS]")
@click.option("--details", is_flag=True, help="Show extra details provided to logs")
@click.option("-f", "--follow", is_flag=True, help="Follow log output")
@click.option("--no-resolve", is_flag=True, help="Do not map IDs to Names in output")
@click.option("--no-task-ids", is_flag=True, help="Do not include task IDs in output")
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@click.option("--raw", is_flag=True, help="Do not neatly format logs")
@click.option(
    "--since",
    default="",
    type=Parsed(lambda text: text and task_log.since(text), "string"),
    help="Only logs since a time (2026-01-02T13:23:37Z) or for a span (42m)",
)
@click.option(
    "-n", "--tail", default="all", show_default=True, help="Lines to show from the end of each task's logs"
)
@click.option("-t", "--timestamps", is_flag=True, help="Show timestamps")
@click.argument("name", metavar="SERVICE|TASK", shell_complete=complete.services)
@click.pass_obj
def logs(
    connection: Connection,
    /,
    name: str,
    *,
    details: bool,
    follow: bool,
    no_resolve: bool,
    no_task_ids: bool,
    no_trunc: bool,
    raw: bool,
    since: str,
    tail: str,
    timestamps: bool,
) -> None:
    """Fetch the logs of a service or task."""
    engine = connection.open()
    sources: Sources | None = None
    wanted = Wanted(follow=follow, since=since, tail=tail, timestamps=timestamps, raw=raw, details=details)
    for line in task_log.read(engine, name, wanted):
        if line.task:
            sources = sources or Sources(engine, name, resolve=not no_resolve)
            source = sources[line.task]
            text = neat(line, source, ids=not no_task_ids, whole=no_trunc, details=details)
        else:
            text = line.text
        out = (sys.stderr if line.stderr else sys.stdout).buffer
        out.write(text)
        out.flush()


def neat(line: Line, source: Source, *, ids: bool, whole: bool, details: bool) -> bytes:
    """A line as docker shows it: `web.1.ub97gyix7c55@node1    | text` (pure)."""
    task = source.task if whole or not source.name else source.task[:12]
    name = ".".join(part for part in (source.name, task if ids or not source.name else "") if part)
    where = f"{name}@{source.node}{' ' * source.padding}" if source.node else name
    return _stamp(line) + f"{where}    | ".encode() + _details(line, details) + line.text


def _stamp(line: Line) -> bytes:
    return f"{line.timestamp} ".encode() if line.timestamp else b""


def _details(line: Line, wanted: bool) -> bytes:
    text = ",".join(f"{key}={value}" for key, value in line.details)
    return f"{text} ".encode() if wanted else b""
