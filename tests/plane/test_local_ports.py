"""UDP where the namespace has few local ports: each conversation has one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from datagrams import ask, client
from made_overlay import HOSTS, TASK, Overlay
from mesh import Mesh, free_port

from meshlb._fastpath import enter_namespace
from meshlb.kernel.visit import visit
from meshlb.model import BackendState, Port, Protocol
from meshlb.table import Backend, Table


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")
def test_questions_go_on_being_answered_when_they_run_out(mesh: Mesh, overlay: Overlay) -> None:
    path = overlay.path(HOSTS[0])
    range_file = "/proc/sys/net/ipv4/ip_local_port_range"
    visit(path, enter_namespace, lambda: Path(range_file).write_text("40000 40019"))
    port = Port(free_port(), 53, Protocol.UDP)
    entry = mesh.entry(Backend(TASK, 80, "task", "web.1", "", BackendState.UP), port=port)
    mesh.plane.apply(Table((entry,), str(path), path.stat().st_ino))
    with contextlib.ExitStack() as stack:
        for number in range(60):
            sock = stack.enter_context(client(port.published))
            assert ask(sock, b"%d" % number).split()[2] == b"%d" % number
    counts = mesh.port_counts(port)
    assert counts.accepted - counts.closed <= 20
    (of_backend,) = mesh.backend_counts(port).values()
    assert (of_backend.failed, counts.refused.resources) == (0, 0)
