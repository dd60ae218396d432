"""Nodes of a Swarm, as their certificates make them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swarm_ca import SwarmCA

from meshlb.peers.identity import MANAGER, WORKER
from meshlb.ports.listen import Listeners


@pytest.fixture
def ca(tmp_path: Path) -> SwarmCA:
    return SwarmCA(tmp_path / "ca")


@pytest.fixture
def manager(ca: SwarmCA) -> Path:
    return ca.root("manager", MANAGER)


@pytest.fixture
def worker(ca: SwarmCA) -> Path:
    return ca.root("worker", WORKER)


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Listeners keep descriptors of their own of what they open: they close them when the test is over."""
    made: list[Listeners] = []
    begin = Listeners.__init__

    def remember(listeners: Listeners, *arguments: Any, **named: Any) -> None:
        made.append(listeners)
        begin(listeners, *arguments, **named)

    monkeypatch.setattr(Listeners, "__init__", remember)
    yield
    for listeners in made:
        listeners.shutdown()
