"""What must hold of everything that the mesh makes of foreign input."""

from __future__ import annotations

import ipaddress
from dataclasses import fields

from meshlb.model import Snapshot
from meshlb.policy import Policy
from meshlb.route import Route, route
from meshlb.table import MOST_PROBLEMS, Table, build

LONGEST = 5_000  # characters of a sentence: a log line takes 4096, and some words around it
TOO_LARGE = 1 << 32  # for a number of the plane


def sentence(text: str, longest: int = LONGEST) -> None:
    """It can be shown on a terminal: one line, bounded, nothing that a terminal would obey."""
    assert isinstance(text, str)
    assert text, "an empty sentence"
    assert len(text) <= longest, f"{len(text)} characters"
    assert text.isprintable(), ascii(text[:200])


def policy(found: Policy) -> None:
    """The plane can take it without looking: it trusts Python."""
    numbers = route(1, ((), ()), found)
    assert isinstance(found, Policy)
    for name, value in zip(Route._fields, numbers, strict=True):
        if isinstance(value, int):
            assert 0 <= value < TOO_LARGE, f"{name} = {value}"
    for networks in (found.allow, found.deny, found.accept_proxy, found.listen):
        assert len(set(networks)) == len(networks) <= 256
        for text in networks:
            assert str(ipaddress.ip_network(text)) == text, "in its usual form"
            assert "%" not in text
    for key in fields(Policy):
        kind, value = type(getattr(Policy(), key.name)), getattr(found, key.name)
        assert isinstance(value, (int, float) if kind in (int, float) else kind), key.name


def table(snapshot: Snapshot) -> Table:
    """The table of a snapshot, which is one that the plane can take."""
    found = build(snapshot)
    assert found == build(snapshot), "not a function of its snapshot"
    keys = [(entry.port.published, entry.port.protocol) for entry in found.entries]
    assert keys == sorted(set(keys)), "every port once, in order"
    for entry in found.entries:
        policy(entry.policy)
        for backend in entry.backends:
            address(backend.address)
            assert 0 < backend.port < 65536
            assert type(backend.weight) is int
            assert 0 < backend.weight <= 256
    assert len(found.problems) <= MOST_PROBLEMS + 1
    for problem in found.problems:
        sentence(problem)
    return found


def address(text: str) -> None:
    """An address and nothing else: it is shown, logged and connected to."""
    assert "%" not in text, text
    assert str(ipaddress.ip_address(text)).isprintable()
    assert text.isprintable()
