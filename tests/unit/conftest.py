"""Nodes of a Swarm, as their certificates make them."""

from __future__ import annotations

from pathlib import Path

import pytest
from swarm_ca import SwarmCA

from meshlb.identity import MANAGER, WORKER


@pytest.fixture
def ca(tmp_path: Path) -> SwarmCA:
    return SwarmCA(tmp_path / "ca")


@pytest.fixture
def manager(ca: SwarmCA) -> Path:
    return ca.root("manager", MANAGER)


@pytest.fixture
def worker(ca: SwarmCA) -> Path:
    return ca.root("worker", WORKER)
