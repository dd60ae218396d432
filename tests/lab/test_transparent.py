"""Tasks see clients' own addresses: every node, every task, with an image that knows nothing of it."""

from __future__ import annotations

import socket

import pytest
from agents import Agent
from docker_cli import Serve, docker
from pairs import mixed_up
from waiting import eventually

from meshlb.lab import Lab
from meshlb.transparent.task_ways import TABLE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

PORT, ECHO = 8095, 8094
PAIRS = 150
CGI = (
    "PORT=8001 server & "  # echoes at 9000
    "mkdir -p /www/cgi-bin; "
    "printf '#!/bin/sh\\necho; echo $REMOTE_ADDR; hostname\\n' > /www/cgi-bin/who; "
    "busybox chmod +x /www/cgi-bin/who; exec httpd -f -p 8000 -h /www"
)


def who(address: str) -> tuple[str, str, str]:
    """Our own address as we know it, as the task sees it, and which task it is; empty when none answers."""
    try:
        with socket.create_connection((address, PORT), timeout=10) as client:
            client.sendall(b"GET /cgi-bin/who HTTP/1.0\r\n\r\n")
            answer = b""
            while data := client.recv(4096):
                answer += data
            own = client.getsockname()[0]
    except OSError:
        return "", "", ""
    if b" 200 " not in answer.partition(b"\n")[0]:
        return own, "", ""
    seen, task = answer.decode().split()[-2:]
    return own, seen.strip("[]").removeprefix("::ffff:"), task


def left(lab: Lab) -> str:
    """What of ours is in the namespaces of all nodes."""
    found = ""
    for node in lab.nodes:
        script = (
            "for each in /run/docker/netns/*; do nsenter --net=$each sh -c "
            "'nft list tables; ip rule; ip route show table all'; done"
        )
        said = node.run(["sh", "-c", script]).stdout
        found += "".join(line for line in said.splitlines() if "meshlb" in line or "0x4d4c" in line)
    return found


def test_every_task_sees_the_clients_own_address_on_every_node(
    lab: Lab, agents: dict[str, Agent], serve: Serve
) -> None:
    publish = ("--publish", f"{PORT}:8000", "--publish", f"{ECHO}:9000")
    options = ("--mode", "global", *publish, "--label", "meshlb.fallback=refuse")
    serve("seen", *options, "--label", "meshlb.client-address=transparent", command=("sh", "-c", CGI))
    for node in lab.nodes:
        seen: set[str] = set()

        def all_seen(address: str = node.address, seen: set[str] = seen) -> bool:
            own, by_task, task = who(address)
            assert not task or by_task == own, (by_task, own, task)
            seen |= {task} - {""}
            return len(seen) == len(lab.nodes)

        eventually(all_seen, timeout=60, what=f"all tasks to answer at {node.name}")
    assert mixed_up([node.address for node in lab.nodes[:2]], ECHO, PAIRS) == []
    assert TABLE in left(lab)
    docker(lab, "service", "update", "--quiet", "--label-rm", "meshlb.client-address", "seen")
    eventually(
        lambda: bool((answer := who(lab.nodes[0].address))[1]) and answer[0] != answer[1],
        timeout=20,
        what="the mesh's address to be seen",
    )
    eventually(lambda: not left(lab), timeout=45, what="nothing to be left behind")
