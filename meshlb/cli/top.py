"""`meshlb top`: the same live, over the whole terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import click

from meshlb.cli import agent_view
from meshlb.cli.agent_view import AgentError, AgentView
from meshlb.cli.columns import table
from meshlb.cli.mesh_rows import HEADERS, Look, rows, summed
from meshlb.cli.program import Verb
from meshlb.cli.terminal import Terminal

VIEWS = {"b": "backends", "s": "services", "n": "nodes"}
SORTS = {"r": "Rate", "a": "Active", "f": "Failed", "p": "Port"}
_COLUMNS = {
    "backends": [
        "Port",
        "Service",
        "Backend",
        "Task",
        "Node",
        "State",
        "Active",
        "Rate",
        "Connected",
        "Failed",
    ],
    "services": ["Service", "State", "Active", "Rate", "Connected", "Failed"],
    "nodes": ["Node", "State", "Active", "Rate", "Connected", "Failed"],
}
_HELP = "b backends s services n nodes  sort: r rate a active f failed p port  q quit"  # 80 columns


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@click.option("-d", "--delay", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds")
@click.option("-n", "--count", type=click.IntRange(1), help="How often to look; for ever otherwise")
@click.option(
    "--view", type=click.Choice(list(_COLUMNS)), default="backends", show_default=True, help="What to show"
)
@agent_view.option
def top(delay: float, count: int | None, view: str, agent: AgentView) -> None:
    """Watch what this node's mesh serves: rates, connections, failures.

    Keys: b, s, n show backends, services, nodes; r, a, f, p sort by rate, active, failed, port; q ends it.
    """
    if not sys.stdout.isatty():
        _plain(agent, delay, count or 1, view)
        return
    with suppress(KeyboardInterrupt), Terminal() as terminal:
        _watch(agent, delay, count, view, terminal)


def _looks(agent: AgentView) -> Iterator[tuple[Look, Look | None]]:
    """The agent's looks, each with the one before; the caller waits in between. AgentError at first alone."""
    before, look = None, agent.look()
    while True:
        yield look, before
        before = look
        try:
            look = agent.look()
        except AgentError:  # one that is replaced is back soon
            look = Look({"problems": [f"no agent answers at {agent.url}"]}, {}, time.monotonic())


def _plain(agent: AgentView, delay: float, count: int, view: str) -> None:
    looks = _looks(agent)
    for number in range(count):
        if number:
            time.sleep(delay)
        click.echo("\n".join(screen(*next(looks), view, "Port", (200, 10_000))[:-1]))


def _watch(agent: AgentView, delay: float, count: int | None, view: str, terminal: Terminal) -> None:
    sort = "Port"
    for number, (look, before) in enumerate(_looks(agent), 1):
        due = time.monotonic() + delay
        while time.monotonic() < due:
            terminal.draw(screen(look, before, view, sort, terminal.size))
            key = terminal.key(max(due - time.monotonic(), 0))
            if key == "q":
                return
            view, sort = VIEWS.get(key, view), SORTS.get(key, sort)
        if number == count:
            return


def screen(look: Look, before: Look | None, view: str, sort: str, size: tuple[int, int]) -> list[str]:
    """The lines of a terminal of `size` columns and rows: what the agent is, the rows, the keys (pure)."""
    width, height = size
    found = rows(look, before)
    shown = found if view == "backends" else list(summed(found, "Service" if view == "services" else "Node"))
    if sort in ("Rate", "Active", "Failed"):
        shown = sorted(shown, key=lambda row: -float(row[sort].removesuffix("/s") or 0))
    columns = _COLUMNS[view]
    cells = [[HEADERS[name] for name in columns], *([row[name] for name in columns] for row in shown)]
    room = height - 4
    lines = [_head(look), "", *table(cells).splitlines()[: room + 1]]
    if len(shown) > room:
        lines[-1] = f"… {len(shown) - room + 1} more"
    return [line[: width - 1] for line in [*lines, _HELP]]


def _head(look: Look) -> str:
    status = look.status
    counters = status.get("counters", {})
    problems: Sequence[str] = status.get("problems", ())
    ports = status.get("ports", ())
    failed = sum(port["state"] == "failed" for port in ports)
    text = f"meshlb {status.get('version', '?')}: {len(ports)} port{'' if len(ports) == 1 else 's'}"
    text += f" ({failed} not served)" if failed else ""
    text += f", {counters.get('open', 0)} connections, {counters.get('accepted', 0)} since the start"
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"{text}; {count}: {problems[0]}" if problems else text
