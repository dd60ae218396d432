"""Boots the machine of `boot`, has its agent serve clients of this one over virtio, and writes what was seen.

boot.py KERNEL INITRAMFS OUTPUT [test PYTEST-ARGUMENTS]
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guest import ADDRESS, ENDS, MARK, NAMES, PUBLISHED
from traffic import free_port

CONNECTIONS = 200
PATIENCE = 900  # seconds until the machine is given up
INIT = "rdinit=/usr/bin/python3 -- /opt/meshlb/benchmarks/armv7/guest.py"


def command(kernel: str, initramfs: str, words: str, forwards: dict[int, int]) -> list[str]:
    """A board that is none: two cores that know no 64 bits, a network card and a console."""
    ways = "".join(f",hostfwd=tcp:127.0.0.1:{here}-{ADDRESS}:{there}" for here, there in forwards.items())
    line = ["qemu-system-arm", "-machine", "virt", "-cpu", "cortex-a7", "-smp", "2", "-m", "1024"]
    line += ["-kernel", kernel, "-initrd", initramfs, "-nographic", "-no-reboot"]
    line += ["-netdev", f"user,id=net,restrict=on{ways}", "-device", "virtio-net-device,netdev=net"]
    return [*line, "-append", f"console=ttyAMA0 quiet {words} {INIT}"]


def told(console: Iterator[str]) -> Iterator[dict[str, Any]]:
    """What the machine says, to us; the rest of its console is for whoever looks on."""
    for line in console:
        _, mark, document = line.partition(MARK)
        if mark:
            yield json.loads(document)
        else:
            print(line, end="", flush=True)


def ask(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.sendall(b"who")
        return client.recv(64).decode()


def traffic(port: int) -> dict[str, Any]:
    """Short connections from this machine, each of which has to be answered."""
    answers = Counter(ask(port) for _ in range(CONNECTIONS))
    assert set(answers) <= {name.decode() for name in NAMES}, answers
    return {"connections": CONNECTIONS, "answers": dict(answers)}


def watch(console: Iterator[str], published: int, ends: int) -> dict[str, Any]:
    """All that was seen from boot to power-off, by kind."""
    seen: dict[str, Any] = {}
    for words in told(console):
        kind = words.pop("kind")
        seen[kind] = words
        print(f"{kind}: {words if kind != 'status' else '...'}", flush=True)
        if kind == "ready":
            seen["over virtio"] = traffic(published)
            socket.create_connection(("127.0.0.1", ends), 60).close()
    return seen


def report(seen: dict[str, Any]) -> dict[str, Any]:
    """What is written down; AssertionError where the agent did not do as it should."""
    inside, outside, status = seen["inside"], seen["over virtio"], seen["status"]["status"]
    assert sum(inside["answers"].values()) == inside["connections"]
    assert inside["bulk arrived whole"]
    assert status["counters"]["failed"] == 0, status["counters"]
    assert seen["end"]["code"] == 0, "the agent did not end well"
    version = subprocess.run(["qemu-system-arm", "--version"], capture_output=True, text=True, check=True)
    return {
        "command": "benchmarks/armv7/boot",
        "emulator": version.stdout.splitlines()[0],
        "machine": seen["machine"],
        "over loopback": inside,
        "over virtio": outside,
        "counters": status["counters"],
        "ports": status["ports"],
        "exit code of the agent": seen["end"]["code"],
    }


def main() -> None:
    kernel, initramfs, output, *tests = sys.argv[1:]
    published, ends = free_port(), free_port()
    words = f"tests={','.join(tests[1:])}" if tests else ""
    line = command(kernel, initramfs, words, {published: PUBLISHED, ends: ENDS})
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as machine:
        patience = threading.Timer(PATIENCE, machine.kill)
        patience.start()
        try:
            assert machine.stdout
            seen = watch(iter(machine.stdout), published, ends)
        finally:
            patience.cancel()
            machine.kill()
    if tests:
        sys.exit(seen["end"]["code"])
    Path(output).write_text(json.dumps(report(seen), indent=1) + "\n")


if __name__ == "__main__":
    main()
