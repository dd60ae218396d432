"""The takeover's transactions, and the life of the child that runs them."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from meshlb.kernel import nft
from meshlb.kernel.nft import NftChild, NftError, change, creation
from meshlb.model import Protocol
from meshlb.ports.ingress import IngressRules
from meshlb.ports.takeover import ENDED, Takeover, has_net_admin
from meshlb.transparent.answers import Answers

TCP80, TCP443, UDP53 = (80, Protocol.TCP), (443, Protocol.TCP), (53, Protocol.UDP)


def test_a_change_is_one_line_of_what_differs() -> None:
    assert change("inet t", {}, {}) == change("inet t", {TCP80: 1}, {TCP80: 1}) == ""
    assert change("inet t", {}, {TCP443: 2, TCP80: 1}) == "add element inet t tcp_ports { 80 : 1, 443 : 2 }"
    assert change("inet t", {TCP80: 1, TCP443: 2}, {TCP443: 2}) == "delete element inet t tcp_ports { 80 }"
    assert change("inet t", {TCP80: 1}, {TCP80: 3, UDP53: 4}) == (
        "delete element inet t tcp_ports { 80 }; "
        "add element inet t tcp_ports { 80 : 3 }; add element inet t udp_ports { 53 : 4 }"
    )


def test_the_table_is_ours_and_comes_with_its_redirects() -> None:
    line = creation("inet t", {TCP80: 31080})
    assert line.startswith("add table inet t { flags owner; ")
    assert line.endswith("}; add element inet t tcp_ports { 80 : 31080 }")
    assert "\n" not in line
    assert line.count("priority -110;") == 2


class FakeChild(NftChild):
    """Remembers what it was told; refuses or dies when asked to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.error = ""
        self.living = True

    @property
    def alive(self) -> bool:
        return self.living

    def run(self, transaction: str) -> None:
        if self.error:
            raise NftError(self.error)
        self.lines.append(transaction)

    def end(self) -> None:
        self.living = False


class World:
    """A takeover in a world where all is made up."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.children: list[FakeChild] = []
        self.error = ""  # what new children refuse with
        self.missing = False
        self.permitted = True
        rules = IngressRules(lambda _: "", lambda: 1, lambda: False)
        self.takeover = Takeover(
            rules=rules, start=self.start, permitted=lambda: self.permitted, clock=lambda: self.now
        )

    def start(self) -> FakeChild:
        if self.missing:
            raise FileNotFoundError("nft")
        self.children.append(FakeChild())
        self.children[-1].error = self.error
        return self.children[-1]


@pytest.fixture
def world() -> World:
    return World()


def test_no_child_is_started_for_nothing(world: World) -> None:
    world.takeover.set({})
    assert world.children == []


def test_the_same_state_again_tells_the_child_nothing(world: World) -> None:
    world.takeover.set({TCP80: 1})
    world.takeover.set({TCP80: 1})
    assert [child.lines for child in world.children] == [[creation(world.takeover.table, {TCP80: 1})]]
    assert world.takeover.redirects == {TCP80: 1}


def test_an_empty_state_keeps_the_child_for_the_connections_that_are_open(world: World) -> None:
    world.takeover.set({TCP80: 1})
    world.takeover.set({})
    assert world.children[0].living
    assert world.takeover.redirects == {}
    world.takeover.close()
    assert not world.children[0].living


def test_a_dead_child_is_replaced_with_the_whole_state(world: World) -> None:
    world.takeover.set({TCP80: 1})
    world.takeover.set({TCP80: 1, TCP443: 2})
    world.children[0].living = False
    world.now += 100
    world.takeover.set({TCP80: 1, TCP443: 2})
    assert world.children[1].lines == [creation(world.takeover.table, {TCP80: 1, TCP443: 2})]
    assert world.takeover.problem == ""


def test_a_child_that_keeps_dying_is_started_ever_more_slowly(world: World) -> None:
    starts = []
    for _ in range(400):
        world.takeover.set({TCP80: 1})
        if world.children and world.children[-1].living:
            starts.append(world.now)
            world.children[-1].living = False
        world.now += 1.0
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert gaps[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert world.takeover.problem == ENDED
    assert world.takeover.redirects == {}


def test_a_child_that_lived_long_is_replaced_at_once(world: World) -> None:
    for _ in range(200):  # until the delay is the longest
        world.takeover.set({TCP80: 1})
        world.children[-1].living = False
        world.now += 1.0
    world.now += 60
    world.takeover.set({TCP80: 1})
    world.now += 60
    lived_long = len(world.children)
    for wait in (0, 1, 2):
        world.children[-1].living = False
        world.now += wait
        world.takeover.set({TCP80: 1})
    assert len(world.children) == lived_long + 3


def test_a_refusal_is_explained_and_not_repeated_at_once(world: World) -> None:
    world.error = "Could not process rule: Operation not permitted"
    for _ in range(3):
        world.takeover.set({TCP80: 1})
    assert len(world.children) == 1
    assert not world.children[0].living
    assert "Operation not permitted" in world.takeover.problem
    world.error = ""
    world.now += 2
    world.takeover.set({TCP80: 1})
    assert world.takeover.problem == ""


NEEDED = "Linux 5.12 or newer is needed"


@pytest.mark.parametrize(
    ("release", "error", "says"),
    [
        ("5.10.0-28-amd64", "Could not process rule: Invalid argument", NEEDED),
        ("4.19.0", "Could not process rule: Operation not supported", NEEDED),
        ("6.1.0-13", "Could not process rule: Invalid argument", "cannot be redirected: Could not process"),
        ("5.10.0", "nft has not answered for 5 s", "cannot be redirected: nft has not answered for 5 s"),
    ],
)
def test_refusals_say_what_to_do(
    world: World, monkeypatch: pytest.MonkeyPatch, release: str, error: str, says: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    world.error = error
    world.takeover.set({TCP80: 1})
    assert says in world.takeover.problem


def test_an_old_kernel_shows_no_clients_addresses_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: object) -> None:
        raise NftError("Could not process rule: Invalid argument")

    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="5.10.0"))
    monkeypatch.setattr("meshlb.transparent.answers.visit", refused)
    answers = Answers(lambda *_: None)
    assert not answers.open(tmp_path)
    assert NEEDED in answers.problem


def test_a_refused_change_gives_everything_back_and_starts_anew(world: World) -> None:
    world.takeover.set({TCP80: 1})
    world.children[0].error = "Could not process rule: No such file or directory"
    world.takeover.set({TCP443: 2})
    assert world.takeover.redirects == {}
    assert not world.children[0].living
    world.now += 2
    world.takeover.set({TCP443: 2})
    assert world.children[1].lines == [creation(world.takeover.table, {TCP443: 2})]


def test_without_nft_the_package_is_named(world: World) -> None:
    world.missing = True
    world.takeover.set({TCP80: 1})
    assert "apt-get install nftables" in world.takeover.problem


def test_without_the_capability_no_child_is_started(world: World) -> None:
    world.permitted = False
    world.takeover.set({TCP80: 1})
    assert "CAP_NET_ADMIN" in world.takeover.problem
    assert world.children == []
    world.takeover.set({})
    assert world.takeover.problem == ""


def test_closing_forgets_the_delay(world: World) -> None:
    for _ in range(2):
        world.takeover.set({TCP80: 1})
        world.takeover.close()
    assert [child.lines for child in world.children] == [[creation(world.takeover.table, {TCP80: 1})]] * 2


@pytest.mark.parametrize(("bits", "may"), [("0000000000001000", True), ("000001ffffffefff", False)])
def test_the_capability_is_read(tmp_path: Path, bits: str, may: bool) -> None:
    (tmp_path / "status").write_text(f"Name:\tx\nCapEff:\t{bits}\n")
    assert has_net_admin(tmp_path / "status") is may


# The real NftChild, with a program in nft's place that complains as nft does.
FAKE_NFT = """
import os, sys, time
for line in sys.stdin:
    line = line.strip()
    if line == "hang":
        time.sleep(3600)
    if line == "end":
        sys.exit(3)
    if line == "refuse":
        print(f"Error: Could not process rule: No\\n{line}\\n^^^", file=sys.stderr)
    if line.startswith("meshlb_done"):
        print(f"Error: syntax error, unexpected newline\\n{line}\\n    ^", file=sys.stderr, flush=True)
"""


@pytest.fixture
def child() -> Iterator[NftChild]:
    child = NftChild([sys.executable, "-I", "-S", "-c", FAKE_NFT])
    yield child
    child.end()


def test_the_childs_silence_is_success(child: NftChild) -> None:
    for _ in range(3):
        child.run("add something")
    child.run("add " + "x" * 300_000)  # more than a pipe holds
    assert child.alive


def test_the_terminals_signals_are_not_the_childs(child: NftChild) -> None:
    assert os.getsid(child.pid) == child.pid


def test_the_childs_complaint_is_an_error_once(child: NftChild) -> None:
    child.run("add something")
    with pytest.raises(NftError, match=r"^Could not process rule: No$"):
        child.run("refuse")
    child.run("add something")


def test_a_child_that_ends_is_an_error(child: NftChild) -> None:
    with pytest.raises(NftError, match="ended with status 3"):
        child.run("end")
    assert not child.alive


def test_a_child_that_hangs_is_not_waited_for(child: NftChild, monkeypatch: pytest.MonkeyPatch) -> None:
    child.run("add something")
    monkeypatch.setattr(nft, "PATIENCE", 0.1)
    with pytest.raises(NftError, match="has not answered"):
        child.run("hang")


def test_a_child_that_hangs_is_ended_all_the_same(child: NftChild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "PATIENCE", 0.1)
    with pytest.raises(NftError, match="has not answered"):
        child.run("hang")
    child.end()
    assert not child.alive
