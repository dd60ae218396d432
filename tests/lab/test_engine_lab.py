"""The Swarm source on a real Swarm: what each node's engine tells, and how soon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from meshlb.lab import Lab, Node
from meshlb.lab.image import IMAGE
from meshlb.model import BackendState, Port, Protocol, Service, Snapshot
from meshlb.swarm.source import SwarmSource

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

NAME = "watched"


class Watched:
    """One node's source, and all that it said. It runs here, on the node's socket and namespace."""

    def __init__(self, node: Node) -> None:
        root = Path(f"/proc/{node.pid}/root/run")
        self.node = node
        self.namespace = root / "docker/netns/ingress_sbox"
        self.source = SwarmSource(f"unix://{root}/docker.sock", namespace=self.namespace)
        self.seen: list[Snapshot] = []

    async def follow(self) -> None:
        async for snapshot in self.source.snapshots():
            self.seen.append(snapshot)

    @property
    def service(self) -> Service | None:
        last = self.seen[-1] if self.seen else Snapshot()
        return next((service for service in last.services if service.name == NAME), None)

    @property
    def up(self) -> int:
        tasks = self.service.tasks if self.service else ()
        return sum(task.state is BackendState.UP for task in tasks)


@contextlib.asynccontextmanager
async def watching(lab: Lab) -> AsyncIterator[list[Watched]]:
    every = [Watched(node) for node in lab.nodes]
    tasks = [asyncio.create_task(watched.follow()) for watched in every]
    try:
        await until(lambda: all(watched.seen for watched in every), "a snapshot of every node")
        yield every
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await docker(lab, "service", "rm", NAME)


async def until(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110  # bounded by the timeout
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


async def docker(lab: Lab, *words: str, node: int = 0) -> str:
    done = await asyncio.to_thread(lab.nodes[node].run, ["docker", *words], timeout=120)
    return done.stdout.strip()


async def create(lab: Lab, *options: str) -> None:
    await docker(lab, "service", "create", "--quiet", "--detach", "--name", NAME, *options, IMAGE)


def up_of(service: Service) -> str:
    """The id of a task of this test: those of the one before may still drain."""
    return next(task.id for task in service.tasks if task.state is BackendState.UP)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_every_node_follows_a_service_from_its_creation_to_its_end(lab: Lab) -> None:
    async def scenario() -> None:
        async with watching(lab) as every:
            await create(lab, "--replicas", "2", "-p", "8080:8000", "-p", "5353:53/udp", "-l", "meshlb.x=y")
            await until(lambda: all(watched.up == 2 for watched in every), "two tasks on every node")
            seen = [{(task.id, task.address) for task in w.service.tasks} for w in every if w.service]
            assert seen[0] == seen[1] == seen[2]
            manager = every[0].service
            assert manager is not None
            assert manager.id
            assert manager.labels == (("meshlb.x", "y"),)
            assert manager.ports == (Port(5353, 53, Protocol.UDP), Port(8080, 8000))
            assert all(w.service and {p.published for p in w.service.ports} == {5353, 8080} for w in every)
            await docker(lab, "service", "scale", "--detach", f"{NAME}=5")
            await until(lambda: all(watched.up == 5 for watched in every), "five tasks on every node")
            await docker(lab, "service", "rm", NAME)
            await until(lambda: not any(watched.up for watched in every), "the end of the tasks")
            await until(lambda: every[0].service is None, "the end of the service on the manager")

    run(scenario())


def test_what_every_node_knows_of_the_swarm(lab: Lab) -> None:
    async def scenario() -> None:
        async with watching(lab) as every:
            names = {node.address: node.name for node in lab.nodes}
            for watched in every:
                snapshot, status = watched.seen[-1], watched.source.status()
                assert {node.address for node in snapshot.nodes} == set(names)
                assert snapshot.namespace_id == watched.namespace.stat().st_ino
                assert snapshot.problems == ()
                assert status.connected
                assert status.node
                own = next(node for node in snapshot.nodes if node.address == watched.node.address)
                assert (own.id, own.name) == (status.node, watched.node.name)
            assert {node.address: node.name for node in every[0].seen[-1].nodes} == names
            assert every[0].source.status().cluster

    run(scenario())


def test_killed_task_gets_no_more_connections_and_is_replaced(lab: Lab) -> None:
    async def scenario() -> None:
        async with watching(lab) as every:
            await create(lab, "--replicas", "3", "-p", "8080:8000", "--constraint", "node.hostname==node2")
            await until(lambda: all(watched.up == 3 for watched in every), "three tasks on every node")
            local = every[1]
            assert local.service is not None
            victim = up_of(local.service)
            container = await docker(
                lab, "ps", "-q", "-f", f"label=com.docker.swarm.task.id={victim}", node=1
            )
            before = len(local.seen)
            await docker(lab, "kill", container, node=1)

            def states(snapshot: Snapshot) -> list[BackendState]:
                return [
                    task.state for found in snapshot.services for task in found.tasks if task.id == victim
                ]

            await until(lambda: not states(local.seen[-1]), "the task to be gone")
            later = [state for snapshot in local.seen[before:] for state in states(snapshot)]
            assert BackendState.UP not in later
            await until(lambda: all(watched.up == 3 for watched in every), "its replacement on every node")

    run(scenario())


def test_unhealthy_task_drains_on_its_node(lab: Lab) -> None:
    async def scenario() -> None:
        async with watching(lab) as every:
            probe = ("--health-cmd", "test ! -e /sick", "--health-interval", "1s", "--health-retries", "1")
            where = ("--constraint", "node.hostname==node3", "-p", "8080:8000")
            await create(lab, *where, *probe)
            await until(lambda: all(watched.up == 1 for watched in every), "the healthy task on every node")
            assert every[2].service is not None
            task = up_of(every[2].service)
            container = await docker(lab, "ps", "-q", "-f", f"label=com.docker.swarm.task.id={task}", node=2)
            await docker(lab, "exec", container, "/bin/busybox", "touch", "/sick", node=2)

            def drains() -> bool:
                tasks = every[2].service.tasks if every[2].service else ()
                return [found.state for found in tasks if found.id == task] == [BackendState.DRAINING]

            await until(drains, "the task to drain")

    run(scenario())
