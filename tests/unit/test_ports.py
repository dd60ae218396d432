"""Tests that run at the same time use different ports, none of which the kernel gives away."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import ports

MANY = 20
OTHER = f"import ports; print(*(ports.free() for _ in range({MANY})))"


def test_another_process_gets_others() -> None:
    support = Path(ports.__file__).parent
    said = subprocess.run(
        [sys.executable, "-c", OTHER], cwd=support, capture_output=True, text=True, check=True
    )
    ours, theirs = {ports.free() for _ in range(MANY)}, set(map(int, said.stdout.split()))
    assert len(ours) == len(theirs) == MANY
    assert not ours & theirs
    assert max(ours | theirs) < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_one_that_is_taken_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", ports.free())) as taken:
        given = {ports.free() for _ in range(ports.SHARE)}
        assert taken.getsockname()[1] not in given
