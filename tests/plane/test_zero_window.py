"""Who does not read for a long while finds everything there when it goes on, as on a direct connection."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from mesh import MIB, Mesh, backend
from sockets import facing
from waiting import eventually

DATA = os.urandom(MIB) * 24  # more than all buffers of the way hold
WHOLE = (len(DATA), hashlib.sha256(DATA).hexdigest(), "end")
# Times that room is asked for in vain: first after 0.2 s, then after twice as long each time.
SECONDS = pytest.param(5, id="seconds")
MINUTES = pytest.param(
    9,
    id="minutes",
    marks=[
        pytest.mark.slow,
        pytest.mark.timeout(300),
        pytest.mark.skipif(os.environ.get("MESHLB_LONG") != "1", reason="two minutes: MESHLB_LONG=1 runs it"),
    ],
)


def connection(stack: contextlib.ExitStack, listener: socket.socket, port: int) -> list[socket.socket]:
    """Both parties of one that leads from the port to the listener."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
    listener.settimeout(30)
    return [client, stack.enter_context(listener.accept()[0])]


def write(party: socket.socket) -> str:
    try:
        party.sendall(DATA)
        party.shutdown(socket.SHUT_WR)
    except OSError as error:
        return repr(error)
    return "written"


def read(party: socket.socket) -> tuple[int, str, str]:
    """How many bytes come, their digest, and how they end."""
    digest, size = hashlib.sha256(), 0
    try:
        while data := party.recv(MIB):
            digest.update(data)
            size += len(data)
    except OSError as error:
        return size, digest.hexdigest(), repr(error)
    return size, digest.hexdigest(), "end"


def asked_in_vain(sender: socket.socket) -> int:
    """How many probes of a window of zero its kernel has sent in a row."""
    return sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[4]  # tcpi_backoff


@pytest.mark.parametrize("probes", [SECONDS, MINUTES])
def test_nobody_reads_for_a_while(mesh: Mesh, probes: int) -> None:
    """Both parties speak and neither listens, directly and through the plane; then all of them do."""
    patience = 30 + 0.4 * 2**probes  # twice as long as it takes
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        direct_to, behind = (listener.getsockname()[1] for listener in listeners)
        mesh.serve(backend(behind))
        direct = connection(stack, listeners[0], direct_to)
        through = connection(stack, listeners[1], mesh.port.published)
        parties = [*direct, *through]
        for party in parties:
            party.settimeout(patience)
        with ThreadPoolExecutor(2 * len(parties)) as threads:
            writing = [threads.submit(write, party) for party in parties]
            # Duplicates that were still open at the end would keep the kernel from sending it.
            with facing(through[0].getsockname()[1]) as to_client, facing(behind) as to_backend:
                senders = [*direct, to_client, to_backend]
                eventually(
                    lambda: min(map(asked_in_vain, senders)) >= probes,
                    timeout=patience,
                    what="all to have asked often",
                )
            reading = [threads.submit(read, party) for party in parties]
            assert [each.result() for each in reading] == [WHOLE] * 4
            assert [each.result() for each in writing] == ["written"] * 4
