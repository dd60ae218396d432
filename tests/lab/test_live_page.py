"""The page of a real agent in a real Swarm, in a real browser: what an operator sees when things happen."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import pytest
from agents import HTTP_PORT, Agent
from axe import serious
from browser import Page, browser, keep, needed
from docker_cli import Serve, docker
from load import Load

from meshlb.lab import Lab, Node

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240), needed]

SOON = 1.0  # seconds until the page shows what has happened; a busy machine gets three attempts
ATTEMPTS = 3
WIDTHS = (390, 1024, 1920)
UP = """[...document.querySelectorAll('#service-list tbody tr')].filter(row =>
    row.cells[0].textContent.startsWith('paged.') && row.querySelector('[data-state=up]'))"""
EVENTS = "[...document.querySelectorAll('#events .name')].map(one => one.textContent).join('\\n')"
FAILOVERS = """Number([...document.querySelectorAll('#totals > div')].find(one =>
    one.firstElementChild.textContent === 'Failovers').lastElementChild.textContent)"""
STATES = """Object.fromEntries([...document.querySelectorAll('#nodes li')].map(one =>
    [one.firstElementChild.textContent, one.querySelector('.state').textContent]))"""
# Remembers when a task was first shown as up: looking from outside would be late.
WATCH = """window.seen = {};
const look = () => ROWS.forEach(row => window.seen[row.cells[0].title.split(' ')[0]] ??= Date.now() / 1000);
new MutationObserver(look).observe(document.body,
    {subtree: true, childList: true, characterData: true, attributes: true});
look()"""


LINE = re.compile(
    r"INFO    connection client=\S+:\d+ port=8090/tcp service=paged task=paged\.\d+\.\w+ "
    r"backend=10\.\S+:8000 node=node\d received=\d+ sent=\d+ connect_ms=\S+ first_byte_ms=\S+ "
    r"duration_ms=\S+ attempts=\d+ reason=done"
)


def test_the_page_and_the_log_show_what_happens(lab: Lab, serve: Serve, agents: dict[str, Agent]) -> None:
    serve("paged", "--replicas", "2", "--publish", "8090:8000", "--label", "meshlb.access-log=on")

    async def scenario() -> None:
        async with asyncio.timeout(200), _page(lab) as page:
            await page.until(f"{UP}.length === 2")
            await page.value(WATCH.replace("ROWS", UP))
            await _new_tasks_are_shown(lab, page)
            await _a_killed_task_is_told(lab, page)
            await _it_fits_and_reads(page)
            await _a_cut_node_is_marked(lab, page)
            assert page.complaints == []

    with Load([f"{lab.nodes[0].address}:8090"], rate=40):
        asyncio.run(scenario())
    assert LINE.search(agents[lab.nodes[0].name].said())


@asynccontextmanager
async def _page(lab: Lab) -> AsyncIterator[Page]:
    async with browser() as page:
        await page.open(f"http://{lab.nodes[0].address}:{HTTP_PORT}/", 1920)
        yield page


async def _new_tasks_are_shown(lab: Lab, page: Page) -> None:
    """A second after they have started, as Docker dates it."""
    late, known = [], set(json.loads(await page.value("JSON.stringify(window.seen)")))
    for replicas in range(4, 4 + 2 * ATTEMPTS, 2):
        await asyncio.to_thread(docker, lab, "service", "scale", "--detach", f"paged={replicas}")
        await page.until(f"{UP}.length === {replicas}")
        seen = json.loads(await page.value("JSON.stringify(window.seen)"))
        started = await asyncio.to_thread(_started, lab)
        late.append(max(seen[name] - started[name] for name in (seen.keys() & started.keys()) - known))
        known |= seen.keys()
        if late[-1] < SOON:
            break
    print("new tasks were shown", *(f"{seconds:.3f}" for seconds in late), "s after their start")
    assert min(late) < SOON, late


def _started(lab: Lab) -> dict[str, float]:
    """When the service's containers started, by the names of their tasks, on all nodes."""
    return {name: when for node in lab.nodes for name, when in _started_on(node)}


def _started_on(node: Node) -> list[tuple[str, float]]:
    ids = node.run(["docker", "ps", "-q", "--filter", "name=paged."]).stdout.split()
    form = "{{.Name}} {{.State.StartedAt}}"
    lines = node.run(["docker", "inspect", "--format", form, *ids]).stdout.splitlines() if ids else []
    words = [line.lstrip("/").split() for line in lines]
    return [(name, datetime.fromisoformat(when[:26] + "+00:00").timestamp()) for name, when in words]


async def _a_killed_task_is_told(lab: Lab, page: Page) -> None:
    """Its event, and the connections that had to go on to another task before anybody knew."""
    before = await page.value(FAILOVERS)
    for _ in range(ATTEMPTS):  # Docker may be quicker than the next client
        await asyncio.to_thread(_kill_one, lab)
        await page.until(f"/paged\\.\\S* is down/.test({EVENTS})")
        with suppress(TimeoutError):
            await page.until(f"{FAILOVERS} > {before}", 4)
            return
    raise AssertionError("no connection had to go on to another task")


def _kill_one(lab: Lab) -> None:
    """While many clients come."""
    with Load([f"{lab.nodes[0].address}:8090"], rate=600):
        time.sleep(1)  # the load starts a process of its own
        docker(lab, "kill", docker(lab, "ps", "-q", "--filter", "name=paged.").split()[0])


async def _it_fits_and_reads(page: Page) -> None:
    for width in WIDTHS:
        await page.show(width)
        assert await page.value("document.documentElement.scrollWidth") <= width
        assert await serious(page) == []
        keep(f"lab-{width}.png", await page.picture())


async def _a_cut_node_is_marked(lab: Lab, page: Page) -> None:
    lost = lab.nodes[-1]
    is_: Callable[[str], str] = lambda state: f"({STATES})['{lost.name}'] === '{state}'"  # noqa: E731
    await page.until(is_("up"), 60)
    await asyncio.to_thread(lab.cut, lost)
    try:
        await page.until(is_("suspected"), 10)
        await page.until(f"/{lost.name}/.test({EVENTS})")
        keep("lab-cut.png", await page.picture())
    finally:
        await asyncio.to_thread(lab.heal, lost)
    await page.until(is_("up"), 90)
