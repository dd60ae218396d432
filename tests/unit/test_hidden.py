"""What keeps tasks from seeing clients' own addresses, in sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshlb.model import BackendState, Node, Port, Snapshot
from meshlb.policy import Policy
from meshlb.table import Backend, Entry, Table
from meshlb.transparent.hidden import SETTLE, SILENT, Hidden

OWN, OTHER = "10.0.0.1", "10.0.0.2"
PORT = Port(80, 8000)
NODES = (Node("1", "one", OWN), Node("2", "two", OTHER))
SEEN = Backend("10.255.0.5", 8000, "a", "web.1", OWN, BackendState.UP, prepared=True)
BLIND = Backend("10.255.0.6", 8000, "b", "web.2", OTHER, BackendState.UP)
TRANSPARENT = Policy(client_address="transparent")


def said(
    *backends: Backend, policy: Policy = TRANSPARENT, problems: tuple[tuple[str, str], ...] = ()
) -> dict[Port, str]:
    """After a while; `problems` are those of nodes."""
    snapshot = Snapshot(nodes=NODES, node=OWN, hindrances=problems)
    hidden, table = Hidden(), Table((Entry(PORT, "web", policy, backends),))
    assert hidden.look(table, snapshot, 1.0) == {}
    return hidden.look(table, snapshot, 1.0 + SETTLE)


def test_where_all_is_well_nothing_is_said() -> None:
    assert said(SEEN) == said() == said(BLIND, policy=Policy()) == {}
    assert said(SEEN, replace(BLIND, state=BackendState.DRAINING)) == {}


@pytest.mark.parametrize(
    ("problems", "reason"),
    [
        ((), f"on two: {SILENT}"),
        (((OTHER, "no nft"),), "on two: no nft"),
        (((OWN, "no namespace"), (OTHER, "no nft")), "on one: no namespace"),
    ],
)
def test_the_reason_is_what_the_node_says_in_whose_way_it_is(
    problems: tuple[tuple[str, str], ...], reason: str
) -> None:
    assert said(SEEN, BLIND, problems=problems) == {
        PORT: f"port 80/tcp: 1 of 2 tasks do not see clients' own addresses and see a node's: {reason}"
    }


def test_what_becomes_of_the_connections_is_said() -> None:
    refusing = replace(TRANSPARENT, fallback="refuse")
    assert "its task does not see clients' own addresses and sees a node's" in said(BLIND)[PORT]
    assert "and gets no connections (fallback=refuse): " in said(BLIND, policy=refusing)[PORT]


def test_a_file_has_nobody_who_prepares() -> None:
    assert "nobody who prepares" in said(replace(BLIND, node=""))[PORT]


def test_what_passes_is_not_told() -> None:
    hidden, snapshot = Hidden(), Snapshot(nodes=NODES, node=OWN)
    without = Table((Entry(PORT, "web", TRANSPARENT, (BLIND,)),))
    whole = Table((Entry(PORT, "web", TRANSPARENT, (SEEN,)),))
    for second, table in enumerate((without, whole, without, whole) * 4):
        assert hidden.look(table, snapshot, second * (SETTLE - 1)) == {}
