"""What the channel costs one agent among many: python tests/support/measure_channel.py [PEERS] [SECONDS].

The other agents live in a second process, each with a certificate and a loopback address of its own. They
listen to the one that is measured, which listens to all of them. Prints its share of a core and its memory.
They send no echoes: on one machine every answer would go to all of them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path

from swarm_ca import SwarmCA

from meshlb import process
from meshlb.model import BackendState, Desired, Port, Service
from meshlb.peers.channel import Peers
from meshlb.peers.dial import Dials
from meshlb.peers.echo import Echo
from meshlb.peers.identity import MANAGER, WORKER

MEASURED, PORT = "127.0.1.1", 17_950
SERVICES = 20
CHANGES = ("nothing", "one task a second", "a task of each a second", "what managers know, each second")


class Nobody(Echo):
    """Asks nobody."""

    def ask(self, addresses: Iterable[str]) -> None:
        """No."""


def other(number: int) -> str:
    """The address of one of the others."""
    return f"127.0.2.{number + 1}"


def desired(number: int) -> Desired:
    """A Swarm of some services, not the same for two numbers."""
    labels = (("meshlb.balance", "leastconn"), ("meshlb.hold", f"{number}s"))
    services = (
        Service(f"id-{i:021}", f"service-{i}", (Port(i + 1, 80),), (), labels) for i in range(SERVICES)
    )

    return Desired(tuple(services))


async def live_as_others(roots: list[Path], asked: Connection) -> None:
    """All the others, changing what they tell as often as they are asked to."""
    nobody = Nobody()
    peers = [
        Peers(root, address=other(i), port=PORT, on_desired=lambda _: None, ask=(nobody, Dials(PORT, 1)))
        for i, root in enumerate(roots)
    ]
    tasks = [asyncio.create_task(peer.run()) for peer in peers]
    for peer in peers:
        peer.connect((MEASURED,))
    mode, turn = CHANGES[0], 0
    while mode:
        if asked.poll():
            mode = asked.recv()
        turn += 1
        states = {"a" * 25: BackendState.DRAINING} if turn % 2 else {}
        for peer in peers if mode == CHANGES[2] else peers[1:2] if mode == CHANGES[1] else ():
            peer.tell(states)
        if mode == CHANGES[3]:
            peers[0].publish(desired(turn))
        await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def others(roots: list[Path], asked: Connection) -> None:
    """The second process."""
    asyncio.run(live_as_others(roots, asked))


async def measure(root: Path, count: int, seconds: float, ask: Callable[[str], None]) -> None:
    """The agent that is measured."""
    before = memory()
    peers = Peers(root, address=MEASURED, port=PORT, on_desired=lambda _: None)
    task = asyncio.create_task(peers.run())
    peers.connect([other(number) for number in range(count)])
    began = time.process_time()
    async with asyncio.timeout(120):
        while peers.counters.peers < count or peers.counters.clients < count:  # noqa: ASYNC110  # bounded
            await asyncio.sleep(0.1)
    print(f"{count} peers: connecting took {time.process_time() - began:.2f} s of a core")
    for mode in CHANGES:
        ask(mode)
        await asyncio.sleep(3)
        heard, began = peers.counters.heard, time.process_time()
        await asyncio.sleep(seconds)
        share = (time.process_time() - began) / seconds
        print(
            f"{mode}: {share:.2%} of a core, {(peers.counters.heard - heard) / seconds:.1f} states a second"
        )
    print(f"memory: {(memory() - before) / count:.0f} kB a peer, {memory() / 1024:.0f} MB in all")
    assert not peers.remote.suspected
    task.cancel()
    await asyncio.wait([task])


def memory() -> int:
    """This process's resident memory, in kB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def main(count: int = 49, seconds: float = 20.0, loop: str = "auto") -> None:
    """Make the certificates, start the others, measure."""
    with tempfile.TemporaryDirectory() as place:
        ca = SwarmCA(Path(place) / "ca")
        roots = [ca.root(f"peer{number}", WORKER if number else MANAGER) for number in range(count)]
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("spawn").Process(target=others, args=(roots, there))
        child.start()
        try:
            with asyncio.Runner(loop_factory=process.loop_factory(loop)) as runner:
                runner.run(measure(ca.root("measured"), count, seconds, here.send))
        finally:
            here.send("")
            child.join(30)
            child.kill()


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 49,
        float(sys.argv[2]) if len(sys.argv) > 2 else 20.0,
        *sys.argv[3:],
    )
