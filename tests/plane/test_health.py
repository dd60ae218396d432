"""A backend that fails is left alone for longer and longer, and looked for by one connection at a time."""

from __future__ import annotations

import contextlib
import socket
import time

from mesh import MakeServer, Mesh, backend, blackhole, echo, free_port
from plane_process import exchange
from waiting import eventually

from meshlb.model import BackendCounts, BackendState
from meshlb.policy import Policy
from meshlb.table import Backend, Table

SHORTEST_PAUSE = 0.25  # seconds; a tenth more or less


def counts(mesh: Mesh, of: Backend) -> BackendCounts:
    return mesh.backend_counts()[of]


def after_one_more(mesh: Mesh, of: Backend) -> BackendCounts:
    """What is counted of a backend when one more client has been served, by it or another."""
    exchange(mesh.port.published).close()
    return counts(mesh, of)


def test_pauses_grow(mesh: Mesh, server: MakeServer) -> None:
    """However busy the machine is: no pause is shorter than it has to be."""
    dead = backend(free_port())
    mesh.serve(dead, server(echo).backend)
    before: dict[int, float] = {}  # when as many failures were known
    after: dict[int, float] = {}

    def failed_often() -> bool:
        begun = time.monotonic()
        failed = after_one_more(mesh, dead).failed
        before.setdefault(failed, begun)
        after.setdefault(failed, time.monotonic())
        return failed == 6

    eventually(failed_often, timeout=60, what="three failures, and three probes")
    pauses = [after[failed + 1] - before[failed] for failed in (3, 4, 5)]
    at_least = [0.9 * SHORTEST_PAUSE * factor for factor in (1, 2, 4)]
    assert all(pause >= least - 0.01 for pause, least in zip(pauses, at_least, strict=True)), pauses


def test_one_connection_at_a_time_probes(mesh: Mesh, server: MakeServer) -> None:
    """A backend that swallows SYNs keeps its probe waiting, and nobody else."""
    with blackhole() as port, contextlib.ExitStack() as stack:
        dead, good = backend(port), server(echo).backend
        mesh.serve(dead, good, policy=Policy(connect_timeout=0.05))
        eventually(lambda: after_one_more(mesh, dead).aside, timeout=60, what="it to be set aside")
        mesh.serve(dead, good, policy=Policy(connect_timeout=20))
        begun = time.monotonic()
        clients: list[socket.socket] = []

        def probed() -> bool:
            """Whether one is under way when one more client has its backend."""
            clients.append(stack.enter_context(mesh.connect()))
            eventually(lambda: sum(active(mesh)) == len(clients), timeout=30, what="its backend to be chosen")
            return counts(mesh, dead).active > 0

        eventually(probed, timeout=30, what="a probe")
        assert all(probed() for _ in range(20))
        pauses = (time.monotonic() - begun) / (0.9 * SHORTEST_PAUSE)
        assert counts(mesh, dead).active <= 1 + pauses
        mesh.plane.apply(Table((mesh.entry(good),), absent=BackendState.DOWN))


def active(mesh: Mesh) -> list[int]:
    return [of.active for of in mesh.backend_counts().values()]
