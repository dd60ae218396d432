"""The page in a real browser, on a mesh that is made up. Pictures are kept where MESHLB_PICTURES says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from axe import serious
from browser import Page, browser, keep, needed
from made_up import HOSTILE, MadeUp

from meshlb.counts import Statistics
from meshlb.elsewhere import Elsewhere
from meshlb.http import server as http
from meshlb.model import BackendState, Port
from meshlb.report import told_document
from meshlb.table import Table, build
from meshlb.timeline import News, Timeline, of_tables
from meshlb.window import Window

pytestmark = needed

WIDTHS = (390, 1024, 1920)
ROWS = "document.querySelectorAll('#service-list tbody tr').length"
EDGES = "[...document.querySelectorAll('.wire .from')].map(one => one.textContent)"
ACTIVE = "[...document.querySelectorAll('#service-list tbody td:nth-child(4)')].map(one => one.textContent)"
CHOOSE = (
    "document.getElementById('from').value = 'ADDRESS'; "
    "document.getElementById('from').dispatchEvent(new Event('change'))"
)
SENT = "[...document.querySelectorAll('.tasks small')].map(one => one.textContent)"
SEEN = """[...document.querySelectorAll('#events li')].map(one =>
    [...one.querySelectorAll('.name')].map(each => each.textContent))"""
WIDE = "document.documentElement.scrollWidth"
NAMELESS = """[...document.querySelectorAll('a, button, input, summary, h1, h2, h3, th')].filter(one =>
    !(one.textContent.trim() || one.labels?.length || one.getAttribute('aria-label'))
    ).map(one => one.outerHTML)"""
CONTRAST = """(() => {
    const light = color => { const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(part =>
        (part /= 255) <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
        return .2126*r + .7152*g + .0722*b; };
    const behind = one => { const color = getComputedStyle(one).backgroundColor;
        return color !== 'rgba(0, 0, 0, 0)' || !one.parentElement ? color : behind(one.parentElement); };
    return [...document.querySelectorAll('body *')].filter(one => one.checkVisibility() &&
        [...one.childNodes].some(child => child.nodeType === 3 && child.data.trim())).map(one => {
            const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
            return [(a + .05) / (b + .05), one.outerHTML.slice(0, 100)]; }).filter(([ratio]) => ratio < 4.5);
})()"""


def shown(
    mesh: MadeUp,
    timeline: Timeline,
    scenario: Callable[[Page, str], Awaitable[None]],
    elsewhere: Elsewhere | None = None,
) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(90),
            http.serve("127.0.0.1:0", mesh.ask, None, mesh.statistics, timeline, elsewhere=elsewhere) as url,
            browser() as page,
        ):
            await scenario(page, url)

    asyncio.run(run())


def test_the_page_is_whole_live_and_fits() -> None:
    services = {"web": 6, "api": 4, "mqtt-broker": 1, "a-service-with-a-remarkably-long-name-of-its-own": 2}
    mesh, timeline = MadeUp(services), Timeline()
    before = build(mesh.status.snapshot)
    timeline.tell(of_tables(Table(), before))
    mesh.set_state("t0.2", BackendState.DRAINING)
    timeline.tell(of_tables(before, build(mesh.status.snapshot)))

    async def scenario(page: Page, url: str) -> None:
        await page.open(url, WIDTHS[-1])
        await page.until(f"{ROWS} === 13")
        await page.until("document.querySelector('#totals dd').textContent !== '0'")
        await page.until("/p50/.test(document.querySelector('.facts').textContent)")
        for width in WIDTHS:
            for dark in (False, True):
                await page.show(width, dark=dark)
                assert await page.value(WIDE) <= width
                assert await page.value(CONTRAST) == []
                if (width, dark) in ((WIDTHS[0], False), (WIDTHS[-1], True)):
                    assert await serious(page) == []
                keep(f"page-{width}-{'dark' if dark else 'light'}.png", await page.picture())
        assert await page.value(NAMELESS) == []
        mesh.set_state("t0.3", BackendState.DOWN)
        timeline.tell([News("task-down", "web.3 is down")])
        await page.until("document.querySelectorAll('#service-list [data-state=down]').length === 1")
        await page.until("/web.3 is down/.test(document.querySelector('#events').textContent)")
        await find(page, "node3")
        assert all(one.startswith((url, "data:")) for one in page.requested)
        assert page.complaints == []

    shown(mesh, timeline, scenario)


async def find(page: Page, word: str) -> None:
    script = (
        "const box = document.getElementById('find'); box.value = WORD; box.dispatchEvent(new Event('input'))"
    )
    await page.value(script.replace("WORD", repr(word)))
    await page.until("document.querySelectorAll('.service').length === 3")


def test_all_nodes_are_added_up_and_each_can_be_seen_alone() -> None:
    mesh, timeline, elsewhere = MadeUp({"web": 2}), Timeline(), Elsewhere()
    timeline.tell([News("task-down", "web.1 is down"), News("failover", "1 attempt went on")])
    there, window = "192.0.2.2", Window()

    async def tell(at: float) -> None:
        window.look(at, found := await mesh.statistics())
        elsewhere.take(there, "counts", at, json.dumps(told_document(found, window, at, 100)))

    async def scenario(page: Page, url: str) -> None:
        await page.open(url, 1024)
        await page.until(
            "/agent of node1 alone.*No other agent tells/.test(document.getElementById('scope').textContent)"
        )
        own = time.time()
        events = [
            {"id": 1, "time": own + 3600, "kind": "task-down", "text": "web.1 is down"},
            {"id": 2, "time": own + 3600, "kind": "failover", "text": HOSTILE},
        ]
        elsewhere.take(there, "events", own + 3600, json.dumps({"events": events}))  # its clock is wrong
        await tell(own - 1)
        await page.until(
            "/2 of 3 nodes.*the agent of node3/.test(document.getElementById('scope').textContent)"
        )
        await tell(own)
        await page.until(f"{EDGES}.join() === 'node1,node2,node1,node2'")
        assert await page.until(SENT) == ["", " (node1 7, node2 7)"]
        await page.until("/p50/.test(document.querySelector('.facts').textContent)")
        assert await page.value(SEEN) == [
            [HOSTILE, "seen by node2"],
            ["1 attempt went on", "seen by node1"],
            ["web.1 is down", "seen by node1, node2"],
        ]
        both = await page.value(ACTIVE)
        for address, part in ((there, "node2"), ("192.0.2.3", "node3")):
            await page.value(CHOOSE.replace("ADDRESS", address))
            await page.until(f"/ {part}/.test(document.getElementById('scope').textContent)")
        assert await page.value(ACTIVE) == ["\u2013", "\u2013"]  # its agent tells nothing
        await page.value(CHOOSE.replace("ADDRESS", there))
        await page.until(f'JSON.stringify({ACTIVE}) === \'["0","7"]\'')
        assert both == ["0", "14"]
        assert page.complaints == []

    shown(mesh, timeline, scenario, elsewhere)


def test_hostile_names_stay_text() -> None:
    mesh, timeline = MadeUp({HOSTILE: 2, "__proto__": 1}, nodes=(HOSTILE, "constructor")), Timeline()
    timeline.tell([News("problem", HOSTILE, {"service": HOSTILE})])

    async def scenario(page: Page, url: str) -> None:
        await page.open(url, 1024)
        await page.until(f"{ROWS} === 3")
        made: Any = await page.value("document.querySelectorAll('img[onerror], main script').length")
        assert made == 0
        names = await page.value("[...document.querySelectorAll('h3')].map(one => one.textContent)")
        assert {HOSTILE, "__proto__", "constructor"} <= set(names)
        assert HOSTILE in await page.until("document.querySelector('#events li .name')?.textContent")
        assert page.complaints == []

    shown(mesh, timeline, scenario)


FOCUS = """(() => { const at = document.activeElement;
    return at.id || (at.tagName === 'SUMMARY' && at.closest('article').querySelector('h3').textContent)
        || at.className || at.textContent; })()"""


def test_all_of_it_can_be_used_by_keyboard() -> None:
    mesh, timeline = MadeUp({"api": 2, "web": 2}), Timeline()
    timeline.tell([News("problem", "something")])

    async def scenario(page: Page, url: str) -> None:
        await page.open(url, 1024)
        await page.until(f"{ROWS} === 4")
        await page.press("Tab")
        assert await page.value(FOCUS) == "skip"
        await page.press("Enter")
        await page.until(f"{FOCUS} === 'services'")
        reached = []
        for _ in range(4):
            await page.press("Tab")
            reached.append(await page.value(FOCUS))
        assert reached == ["find", "api", "web", "events"]
        folded = "document.querySelectorAll('details:not([open])').length"
        await page.value("document.querySelector('summary').focus()")
        await page.press("Enter")
        await page.until(f"{folded} === 1")
        await page.value("document.getElementById('find').focus()")
        for letter in "web":
            await page.press(letter, letter)
        await page.until("document.querySelectorAll('.service').length === 1")

    shown(mesh, timeline, scenario)


def test_an_agent_that_ends_is_told_and_found_again() -> None:
    mesh, old, new = MadeUp({"web": 1}), Timeline(clock=lambda: 1e9), Timeline(clock=lambda: 1e9 + 60)
    old.tell([News("problem", "old")])
    new.tell([News("problem", "new")])  # of the same number as that of the agent before

    async def run() -> None:
        async with asyncio.timeout(90), browser() as page:
            async with http.serve("127.0.0.1:0", mesh.ask, None, mesh.statistics, old) as url:
                await page.open(url, 1024)
                await page.until(f"{ROWS} === 1")
                await page.until(f"{SEEN}[0]?.[0] === 'old'")
            await page.until("document.getElementById('link').dataset.state === 'lost'")
            async with http.serve(url.removeprefix("http://"), mesh.ask, None, mesh.statistics, new):
                await page.until("document.getElementById('link').dataset.state === 'live'")
                await page.until(f"{SEEN}.map(one => one[0]).join() === 'new'")

    asyncio.run(run())


def test_screen_readers_hear_of_an_agent_that_counts_its_events_anew() -> None:
    mesh, elsewhere = MadeUp({"web": 1}), Elsewhere()

    async def scenario(page: Page, url: str) -> None:
        await page.open(url, 1024)
        await page.until(f"{ROWS} === 1")
        for number, text in ((7, "before"), (1, "after")):
            at = time.time()
            events = [{"id": number, "time": at, "kind": "problem", "text": text}]
            elsewhere.take("192.0.2.2", "events", at, json.dumps({"events": events}))
            await page.until(f"{SEEN}[0]?.[0] === '{text}'")
        assert await page.value("document.getElementById('said').textContent") == "after"

    shown(mesh, Timeline(), scenario, elsewhere)


LINK = "document.getElementById('link').dataset.state"
LATER = "window.ahead = 0; { const now = Date.now; Date.now = () => now() + window.ahead; }"


def test_an_agent_that_was_silent_for_a_while_is_live_again() -> None:
    mesh, silent, speaking = MadeUp({"web": 1}), asyncio.Event(), asyncio.Event()

    async def statistics() -> Statistics:
        silent.set()
        await speaking.wait()
        return await mesh.statistics()

    async def run() -> None:
        async with (
            asyncio.timeout(90),
            http.serve("127.0.0.1:0", mesh.ask, None, statistics) as url,
            browser() as page,
        ):
            speaking.set()
            await page.open(url, 1024)
            await page.until(f"{LINK} === 'live' && {ROWS} === 1")
            await page.value(LATER)
            speaking.clear()
            silent.clear()
            await silent.wait()
            await page.until(f"window.ahead += 1000, {LINK} === 'lost'")
            speaking.set()
            await page.until(f"{LINK} === 'live'")

    asyncio.run(run())


TARGETS = """import('/page/mesh.js').then(({ join, rowsOf }) => {
    const state = { port: '80/tcp', service: 'web', state: 'serving', reason: '' };
    const of = (task, port) => ({ task, name: task, node: 'a', port, state: 'up' });
    const backends = [of('t1', 81), of('t1', 80), of('t2', 81)];
    const columns = (time, connected, active, aside) => rowsOf({ time, ports: { port: [] },
        backends: { port: Array(3).fill('80/tcp'), task: ['t1', 't1', 't2'], connected, active, aside } });
    const source = { address: 'a', name: 'a', self: true, before: columns(1, [1, 10, 100], [0, 0, 0], []),
        now: columns(2, [3, 14, 108], [1, 2, 4], [true, false, true]) };
    const status = { ports: [state], services: [{ name: 'web', ports: [{ port: '80/tcp', backends }] }],
        nodes: [{ id: 'n', address: 'a', name: 'a', self: true, state: 'up' }] };
    const found = join(status, [source]);
    return [found.services[0].ports[0].backends.map(one =>
        [one.task, one.port, one.counts.active, one.pace.connected, one.counts.aside]),
        found.flow[0].tasks.map(one => [one.id, one.active, one.from[0].active])];
})"""


def test_a_task_that_may_listen_at_two_targets_is_one() -> None:
    mesh = MadeUp({"web": 3})
    mesh.publish("web", Port(8000, 81))

    async def scenario(page: Page, url: str) -> None:
        await page.open(url, 1024)
        await page.until(f"{ROWS} === 3")
        facts = await page.value("document.querySelector('.facts').textContent.replaceAll('\u00a0', ' ')")
        assert facts.startswith("3 of 3 tasks up")
        assert await page.value(TARGETS) == [
            [["t1", 81, 3, 6, False], ["t2", 81, 4, 8, True]],
            [["t1", 3, 3], ["t2", 4, 4]],
        ]

    shown(mesh, Timeline(), scenario)


TIMES = "[...document.querySelectorAll('#events time')].map(one => one.textContent)"
TITLE = "document.querySelector('#events time').title"
DAY = 86400  # seconds


def test_an_event_of_another_day_has_its_date() -> None:
    then = 1.7e9  # on 14 or 15 November 2023, wherever the browser is
    told = Timeline(clock=lambda: then)
    told.tell([News("problem", "something")])

    async def scenario(page: Page, url: str) -> None:
        await page.open(url, 1024)
        await page.until(f"/^1[45] Nov \\d\\d:\\d\\d:\\d\\d$/.test({TIMES}[0])")
        assert " November 2023" in await page.value(TITLE)
        await page.value(f"Date.now = () => {then * 1000}")
        await page.until(f"/^\\d\\d:\\d\\d:\\d\\d$/.test({TIMES}[0])")
        await page.value(f"Date.now = () => {(then + DAY) * 1000}")
        await page.until(f"/^1[45] Nov /.test({TIMES}[0])")

    shown(MadeUp({"web": 1}), told, scenario)


def test_focus_stays_when_something_before_it_goes() -> None:
    mesh = MadeUp({"api": 1, "mqtt": 1, "web": 1})

    async def scenario(page: Page, url: str) -> None:
        await page.open(url, 1024)
        await page.until(f"{ROWS} === 3")
        await page.value("[...document.querySelectorAll('summary')].at(-1).focus()")
        assert await page.value(FOCUS) == "web"
        snapshot = mesh.status.snapshot
        mesh.status = replace(
            mesh.status,
            ports=mesh.status.ports[1:],
            snapshot=replace(snapshot, services=snapshot.services[1:]),
        )
        await page.until(f"{ROWS} === 2")
        assert await page.value(FOCUS) == "web"

    shown(mesh, Timeline(), scenario)
