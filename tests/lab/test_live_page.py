"""The page of a real agent in a real Swarm, in a real browser."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from agents import HTTP_PORT
from browser import browser, needed
from docker_cli import Serve, docker
from load import Load

from meshlb.lab import Lab

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(240),
    needed,
]

TASKS = """[...document.querySelectorAll('#service-list tbody tr')].filter(row =>
    row.cells[0].textContent.startsWith('paged.') && row.querySelector('[data-state=up]')).length"""
SCOPE = "document.getElementById('scope').textContent"
SEEN = "[...document.querySelectorAll('#events .seen')].map(one => one.textContent).join('\\n')"
SENDING = """[...document.querySelectorAll('.wire')].some(wire => wire.children[0].textContent === 'node2' &&
    Number(/([\\d.]+) new/.exec(wire.children[2].textContent)?.[1]) > 0)"""
EVENTS = "[...document.querySelectorAll('#events .name')].map(one => one.textContent).join('\\n')"


@pytest.mark.usefixtures("agents")
def test_the_page_shows_what_happens(lab: Lab, serve: Serve) -> None:
    serve("paged", "--replicas", "2", "--publish", "8090:8000")

    async def scenario() -> None:
        async with asyncio.timeout(120), browser() as page:
            await page.open(f"http://{lab.nodes[0].address}:{HTTP_PORT}/", 1920)
            await page.until(f"{TASKS} === 2")
            assert await page.value("document.querySelectorAll('#nodes li').length") == 3
            await asyncio.to_thread(docker, lab, "service", "scale", "--detach", "paged=5")
            await page.until(f"{TASKS} === 5")
            victim = await asyncio.to_thread(docker, lab, "ps", "-q", "--filter", "name=paged.")
            await asyncio.to_thread(docker, lab, "kill", victim.split()[0])
            await page.until(f"/paged\\.\\S* is down/.test({EVENTS})")
            await page.until(f"/whole mesh.*3 nodes/.test({SCOPE})")
            await page.until(SENDING)  # what its own clients do not: they come to the first node
            await page.until(f"/seen by node1, node2, node3/.test({SEEN})")
            if folder := os.environ.get("MESHLB_PICTURES"):
                (Path(folder) / "lab.png").write_bytes(await page.picture())
            assert page.complaints == []

    with Load([f"{node.address}:8090" for node in lab.nodes[:2]], rate=80):
        asyncio.run(scenario())
