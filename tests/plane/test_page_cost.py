"""What it costs an agent to be looked at: ten browsers with its page, and a scrape every second."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from agent_process import Agent, free_port
from browser import Page, needed, tabs
from cpu_time import used_by

pytestmark = [
    needed,
    pytest.mark.alone,
    pytest.mark.skipif(os.environ.get("MESHLB_LONG") != "1", reason="takes two minutes: MESHLB_LONG=1"),
    pytest.mark.timeout(300),
]

SERVICES, BACKENDS = 20, 10
BROWSERS = 10
WINDOW = 30.0  # seconds
SETTLING = 5.0
MOST = 0.03  # of a core
ROWS = "document.querySelectorAll('#service-list tbody tr').length"
PLAIN = {"Accept-Encoding": "gzip", "Accept": "text/plain"}


async def share(pid: int) -> float:
    """Of a core, over WINDOW."""
    before = used_by(pid)
    await asyncio.sleep(WINDOW)
    return (used_by(pid) - before) / WINDOW


@contextmanager
def answering() -> Iterator[int]:
    """Accepts and closes; gives its port."""
    with socket.create_server(("", 0), backlog=128) as listener:

        def serve() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


async def visit(ports: list[int]) -> None:
    """A connection to each port every second, so that there is something new to tell."""
    while True:
        for port in ports:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()
            await asyncio.sleep(1 / len(ports))


async def scrape(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/metrics", headers=PLAIN) as answer:
                assert (await answer.text()).count("meshlb_backend_up{") == SERVICES * BACKENDS
            await asyncio.sleep(1)


async def look(pages: list[Page], port: int) -> None:
    """One browser has at most six connections to an address, and this machine has many."""
    for number, page in enumerate(pages, 1):
        await page.open(f"http://127.0.0.{number}:{port}/", 1024)
        await page.until("document.getElementById('link')?.dataset.state === 'live'")
    await pages[-1].call("Page.bringToFront")
    await pages[-1].until(
        f"{ROWS} === {SERVICES * BACKENDS}"
    )  # the others are told the same, and draw nothing


def test_ten_browsers_and_a_scrape_every_second(tmp_path: Path) -> None:
    with answering() as behind:
        agent, ports = Agent(tmp_path), [free_port() for _ in range(SERVICES)]
        backends = ", ".join(f'"127.0.0.{number}:{behind}"' for number in range(1, BACKENDS + 1))
        entry = '[[port]]\npublished = {}\nservice = "service-{}"\nbackends = [{}]\n'
        agent.write("".join(entry.format(port, at, backends) for at, port in enumerate(ports)))
        agent.start("--http", f"0.0.0.0:{agent.http}")
        assert agent.process
        try:
            alone, seen = asyncio.run(_measure(agent.process.pid, agent.http, ports))
        finally:
            agent.end_all()
    print(f"alone {alone:.2%} of a core, looked at {seen:.2%}: {seen - alone:.2%} for being looked at")
    assert seen - alone < MOST


async def _measure(pid: int, http: int, ports: list[int]) -> tuple[float, float]:
    visiting = asyncio.create_task(visit(ports))
    try:
        await asyncio.sleep(SETTLING)
        alone = await share(pid)
        async with tabs(BROWSERS) as pages:
            await look(pages, http)
            scraping = asyncio.create_task(scrape(f"http://127.0.0.1:{http}"))
            await asyncio.sleep(SETTLING)
            seen = await share(pid)
            assert not scraping.done()
            scraping.cancel()
        assert not visiting.done()
        return alone, seen
    finally:
        visiting.cancel()
