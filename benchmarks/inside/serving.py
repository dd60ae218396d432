"""A real plane with one worker, one port and 50 backends, for valgrind: serving.py BALANCER BACKEND-PORT.

Prints the published port, and serves until its input ends.
"""

from __future__ import annotations

import socket
import sys

from meshlb.model import BackendState, Port
from meshlb.plane import Plane
from meshlb.policy import from_settings
from meshlb.ports.listen import Listeners
from meshlb.ports.takeover import Takeover
from meshlb.table import Backend, Entry, Table

BACKENDS = 50


def free_port() -> int:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    balancer, behind = sys.argv[1:]
    policy, problems = from_settings([("balance", balancer)], "")
    assert not problems, problems
    backends = tuple(
        Backend(f"127.0.1.{number + 1}", int(behind), f"id-{number}", f"web.{number}", "", BackendState.UP)
        for number in range(BACKENDS)
    )
    plane = Plane(1, listeners=Listeners(Takeover("never")))
    plane.start()
    port = Port(free_port(), 80)
    plane.apply(Table((Entry(port, "web", policy, backends),)))
    print(port.published, flush=True)
    sys.stdin.read()
    plane.stop()


if __name__ == "__main__":
    main()
