"""One end of the channel between agents as a process: it does what stdin says, and prints what it hears.

Its arguments are Docker's data directory and the port. Lines in: `publish NAME...`, `silence`,
`connect ADDRESS...`, and `forge NAME...`, which is `publish` of a node that takes itself for a manager. Lines
out: `heard NAME...` for each state, `silent ADDRESS...` for nodes that are, `problem TEXT` whenever that
changes.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from meshlb.model import Desired, Service
from meshlb.peers.channel import Peers
from meshlb.peers.client import Pace
from meshlb.peers.identity import MANAGER


def say(*words: str) -> None:
    """One line, at once."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def heard(desired: Desired) -> None:
    """A state has come."""
    say("heard", *(service.name for service in desired.services))


async def main(root: Path, port: int) -> None:
    """Run until stdin ends."""
    peers = Peers(
        root,
        port=port,
        on_desired=heard,
        on_remote=lambda remote: say("silent", *sorted(remote.suspected)),
        pace=Pace(look=0.2, grace=1.0),
    )
    parts = [asyncio.create_task(peers.run()), asyncio.create_task(tell_problems(peers))]
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, *words = line.split()
        if verb == "connect":
            peers.connect((), tuple(words))
        else:
            if verb == "forge":
                await pretend(peers)
            services = tuple(Service(name, name, (), ()) for name in words)
            peers.publish(Desired(services) if verb != "silence" else None)
    for part in parts:
        part.cancel()
    await asyncio.wait(parts)


async def pretend(peers: Peers) -> None:
    """Take this node for a manager, as nobody else does who sees its certificate."""
    while (own := peers.identity) is None:  # noqa: ASYNC110  # it is read by another task
        await asyncio.sleep(0.02)
    peers._keeper.current = replace(own, role=MANAGER)


async def tell_problems(peers: Peers) -> None:
    """The problem whenever it is another one."""
    told = ""
    while True:
        if peers.problem != told:
            told = peers.problem
            say("problem", told)
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
