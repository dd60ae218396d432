"""A real plane for every test, and the check that it gives everything back."""

from __future__ import annotations

import gc
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_overlay import CLIENT, Overlay
from mesh import WORKERS, Handler, Mesh, Server
from waiting import eventually


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def workers() -> int:
    """Tests that need another number of workers parametrize this."""
    return WORKERS


@pytest.fixture
def mesh(workers: int) -> Iterator[Mesh]:
    gc.collect()
    before = descriptors()
    mesh = Mesh(workers)
    yield mesh
    mesh.close()
    del mesh.plane
    gc.collect()
    eventually(lambda: descriptors() <= before, timeout=10, what=f"descriptors to be {before} again")


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    """Makes backends; they are closed before the mesh is looked at."""
    servers: list[Server] = []

    def make(handle: Handler, family: socket.AddressFamily = socket.AF_INET) -> Server:
        servers.append(Server(handle, family))
        return servers[-1]

    yield make
    for one in servers:
        one.close()


@pytest.fixture
def client_address() -> Iterator[None]:
    words = (f"{CLIENT}/32", "dev", "lo")
    subprocess.run(["ip", "address", "replace", *words], check=True)
    yield
    subprocess.run(["ip", "address", "delete", *words], check=True)


@pytest.fixture
def overlay(client_address: None) -> Iterator[Overlay]:
    found = Overlay()
    try:
        found.build()
        found.serve()
        try:
            yield found
        finally:
            found.close()
    finally:
        found.remove()
