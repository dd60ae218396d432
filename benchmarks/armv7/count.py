"""System calls and instructions per connection of meshlb, HAProxy and nginx, under one emulation of armv7.

count.py ROOT PLUGIN OUTPUT: the armhf root, the built count.c, and the JSON file to write.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import Rows, Thread, names
from traffic import LOADS, Load, await_answer, backend, free_port

HERE = Path(__file__).parent
ROUNDS = 3
WARM = 300  # times before anything is counted: what is adaptive has settled
TIMES = {"MiB of an open connection": 30}
USUAL = 300
CLOCK = frozenset(
    ("clock_gettime", "clock_gettime64", "gettimeofday")
)  # a board's kernel answers in the vDSO


@dataclass(frozen=True)
class Peer:
    """A proxy with the file it reads; `command` is told that file's path as {config}."""

    name: str
    config: str
    command: tuple[str, ...]
    version: tuple[str, ...]
    splice: str = ""


RUN = ("usr/bin/python3", "-m", "meshlb.agent", "--config", "{config}", "--workers", "1")
AGENT = (*RUN, "--takeover", "never", "--http", "off", "--peers", "off", "--socket", "{directory}/agent.sock")
HAPROXY = ("usr/sbin/haproxy", "-db", "-f", "{config}")
NGINX = ("usr/sbin/nginx", "-p", "{directory}", "-e", "stderr", "-c", "{config}")
PEERS = (
    Peer("meshlb", "mesh.toml", AGENT, ("usr/bin/python3", "-m", "meshlb.agent", "--version")),
    Peer("haproxy", "haproxy.cfg", HAPROXY, ("usr/sbin/haproxy", "-v")),
    Peer("haproxy, splice", "haproxy.cfg", HAPROXY, ("usr/sbin/haproxy", "-v"), "option splice-auto"),
    Peer("nginx", "nginx.conf", NGINX, ("usr/sbin/nginx", "-v")),
)


class Emulator:
    """qemu-user with the plugin, for programs of one root."""

    def __init__(self, root: Path, plugin: Path) -> None:
        self.root, self.plugin, self.names = root, plugin, names(root)
        self.environment = {**os.environ, "MESHLB_STATE_DIR": "off", "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment["PYTHONPATH"] = f"{root}/opt/meshlb:{root}/opt/site"

    def line(self, command: tuple[str, ...], into: Path | None = None) -> list[str]:
        """The command line of a program of the root, counted into a file."""
        counted = ["-plugin", f"{self.plugin},into={into}"] if into else []
        return ["qemu-arm", "-L", str(self.root), *counted, f"{self.root}/{command[0]}", *command[1:]]

    def says(self, command: tuple[str, ...]) -> str:
        """The first line that a program prints."""
        line = self.line(command)
        run = subprocess.run(line, env=self.environment, cwd="/", capture_output=True, text=True, check=True)
        return (run.stdout + run.stderr).splitlines()[0]

    @contextlib.contextmanager
    def run(self, peer: Peer, port: int, behind: int) -> Iterator[Rows]:
        """The peer on a port, leading to the backend's."""
        with tempfile.TemporaryDirectory() as directory:
            words = {"directory": directory, "config": f"{directory}/{peer.config}"}
            text = (HERE / peer.config).read_text()
            text = text.format(port=port, backend=behind, splice=peer.splice, **words)
            Path(words["config"]).write_text(text)
            rows = Rows(Path(directory, "rows"))
            line = self.line(tuple(word.format(**words) for word in peer.command), rows.path)
            with Path(directory, "log").open("w+") as log, self._process(line, log) as process:
                await_answer(port, lambda: process.poll() is None)
                yield rows

    @contextlib.contextmanager
    def _process(self, line: list[str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            line, env=self.environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield process
        except BaseException:
            log.seek(0)
            print(log.read()[-4000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(60)


def settled(rows: Rows) -> list[Thread]:
    """A look when whatever the load began has ended: no thread has closed anything for a while."""
    before = rows.look()
    while True:
        time.sleep(0.3)
        now = rows.look()
        if all(is_idle(new.since(old)) for old, new in zip(before, now, strict=True)):
            return now
        before = now


def is_idle(thread: Thread) -> bool:
    """Whether it has done no more than look at the clock or for events."""
    return thread.calls.total() <= 10


def counted(rows: Rows, load: Load, port: int, times: int) -> Thread:
    """What the threads that moved the traffic did; the control thread of an agent is none of them."""
    before = settled(rows)
    load(port, times)
    threads = [new.since(old) for old, new in zip(before, settled(rows), strict=True)]
    busiest = max(thread.calls.total() for thread in threads)
    moving = [thread for thread in threads if thread.calls.total() > busiest / 10]
    return Thread(sum(one.instructions for one in moving), sum((one.calls for one in moving), Counter()))


def per_time(thread: Thread, times: int, emulator: Emulator) -> dict[str, Any]:
    """One round's numbers, for one connection, request or MiB."""
    calls = {emulator.names.get(number, str(number)): count for number, count in thread.calls.most_common()}
    clock = sum(count for name, count in calls.items() if name in CLOCK)
    return {
        "syscalls": round((thread.calls.total() - clock) / times, 2),
        "looks at the clock": round(clock / times, 2),
        "instructions": round(thread.instructions / times),
        "calls": {name: round(count / times, 2) for name, count in calls.items() if count > times / 100},
    }


def measure(emulator: Emulator, peer: Peer) -> dict[str, Any]:
    """One round of a peer: every load."""
    port, found = free_port(), {}
    with backend() as behind, emulator.run(peer, port, behind) as rows:
        for name, load in LOADS.items():
            times = TIMES.get(name, USUAL)
            load(port, min(WARM, times))
            found[name] = per_time(counted(rows, load, port, times), times, emulator)
            print(
                f"{peer.name:16} {name:30} {found[name]['syscalls']:7} system calls "
                f"{found[name]['instructions']:9} instructions",
                flush=True,
            )
    return found


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median round by instructions of each load, with the least and the most of all rounds."""
    result = {}
    for load in LOADS:
        ordered = sorted((one[load] for one in rounds), key=lambda one: int(one["instructions"]))
        middle = ordered[len(ordered) // 2]
        spread = [ordered[0]["instructions"], ordered[-1]["instructions"]]
        calls = statistics.median(one["syscalls"] for one in ordered)
        result[load] = {**middle, "syscalls": calls, "instructions of the rounds": spread}
    return result


def against(found: dict[str, Any]) -> dict[str, Any]:
    """meshlb's numbers divided by each peer's: below 1 it does with less."""
    own = found["meshlb"]
    return {
        f"meshlb / {name}": {
            load: {what: round(own[load][what] / one[load][what], 3) for what in ("syscalls", "instructions")}
            for load in LOADS
        }
        for name, one in found.items()
        if name != "meshlb"
    }


def first_line(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> None:
    root, plugin, output = (Path(word).resolve() for word in sys.argv[1:])
    emulator = Emulator(root, plugin)
    rounds: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in PEERS}
    for _ in range(ROUNDS):
        for peer in PEERS:
            rounds[peer.name].append(measure(emulator, peer))
    found = {name: summary(of_peer) for name, of_peer in rounds.items()}
    result = {
        "command": "benchmarks/armv7/run",
        "emulator": first_line("qemu-arm", "--version"),
        "root": "Debian " + (root / "etc/debian_version").read_text().strip() + " armhf",
        "commit": first_line("git", "-C", str(HERE), "rev-parse", "HEAD"),
        "versions": {peer.name: emulator.says(peer.version) for peer in PEERS},
        "rounds": ROUNDS,
        "peers": found,
        "ratios": against(found),
    }
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
