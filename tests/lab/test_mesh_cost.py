"""What a Swarm of 20 services with 10 tasks each costs its agents, and one of them to be looked at."""

from __future__ import annotations

import asyncio
import os
import time

import aiohttp
import pytest
from agents import HTTP_PORT, Agent
from cpu_time import used_by
from docker_cli import Serve, running
from load import Load
from waiting import eventually

from meshlb.lab import Lab

pytestmark = [
    pytest.mark.lab,
    pytest.mark.alone,
    pytest.mark.skipif(os.environ.get("MESHLB_LONG") != "1", reason="five minutes: MESHLB_LONG=1 runs it"),
    pytest.mark.timeout(900),
]

SERVICES, TASKS = 20, 10
FIRST = 8100  # its port
RATE = 100.0  # connections a second, of all nodes and services together
BROWSERS = 10
SETTLING = 20.0  # seconds: an agent looks more often while its Swarm changes
WINDOW = 30.0  # seconds
MOST_IDLE = 0.05  # of a core, with nobody who looks
MOST_LOOKED_AT = 0.03  # beyond that
PLAIN = {"Accept-Encoding": "gzip", "Accept": "text/plain"}


async def shares(agents: dict[str, Agent]) -> dict[str, float]:
    """Of a core, by the nodes' names, over WINDOW."""
    pids = {name: agent.process.pid for name, agent in agents.items()}
    before, began = {name: used_by(pid) for name, pid in pids.items()}, time.monotonic()
    await asyncio.sleep(WINDOW)
    elapsed = time.monotonic() - began
    return {name: (used_by(pid) - before[name]) / elapsed for name, pid in pids.items()}


async def listen(session: aiohttp.ClientSession, url: str, heard: set[str]) -> None:
    """As a browser does; `heard` are the kinds of messages."""
    async with session.get(f"{url}/api/v1/events") as answer:
        async for line in answer.content:
            if line.startswith(b"event: "):
                heard.add(line[7:].decode().strip())


async def scrape(session: aiohttp.ClientSession, url: str) -> None:
    while True:
        async with session.get(f"{url}/metrics", headers=PLAIN) as answer:
            assert (await answer.text()).count("meshlb_backend_up{") == SERVICES * TASKS
        await asyncio.sleep(1)


async def looked_at(agents: dict[str, Agent], url: str) -> dict[str, float]:
    """The same while ten browsers show the page of one, and a Prometheus scrapes it every second."""
    heard: set[str] = set()
    forever = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=forever, read_bufsize=1 << 20
        ) as session,
        asyncio.TaskGroup() as group,
    ):
        lookers = [group.create_task(listen(session, url, heard)) for _ in range(BROWSERS)]
        lookers.append(group.create_task(scrape(session, url)))
        await asyncio.sleep(5)
        found = await shares(agents)
        for looker in lookers:
            looker.cancel()
    assert {"status", "counts", "node-counts"} <= heard, "the counts of all nodes are told"
    return found


def test_serving_and_being_looked_at(lab: Lab, serve: Serve, agents: dict[str, Agent]) -> None:
    for number in range(SERVICES):
        serve(f"cost-{number}", "--replicas", str(TASKS), "--publish", f"{FIRST + number}:8000")
    names = [f"cost-{number}" for number in range(SERVICES)]
    eventually(
        lambda: sum(running(lab, name) for name in names) == SERVICES * TASKS,
        timeout=300,
        what="all tasks to run",
        every=2,
    )
    addresses = [f"{node.address}:{FIRST + number}" for number in range(SERVICES) for node in lab.nodes]
    first = lab.nodes[0]
    with Load(addresses, concurrency=1, rate=RATE / len(addresses), seconds=600) as load:
        time.sleep(SETTLING)
        alone = asyncio.run(shares(agents))
        seen = asyncio.run(looked_at(agents, f"http://{first.address}:{HTTP_PORT}"))
        assert load.stop().failed == 0
    more = {name: seen[name] - alone[name] for name in seen}
    for title, found in (("serving", alone), ("more for being looked at", more)):
        print(title, {name: f"{share:.2%}" for name, share in found.items()})
    assert max(alone.values()) < MOST_IDLE
    assert max(more.values()) < MOST_LOOKED_AT
