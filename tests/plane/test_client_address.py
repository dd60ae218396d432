"""Clients' own addresses, kept: two ingress hosts and a task in namespaces, joined as by an overlay."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from made_overlay import CLIENT, HOSTS, TASK, Overlay
from mesh import Mesh
from strace import traced
from waiting import eventually

from meshlb._fastpath import enter_namespace
from meshlb.kernel.nft import NftError
from meshlb.kernel.visit import visit
from meshlb.model import BackendState, Protocol
from meshlb.policy import Policy
from meshlb.table import Backend, Table
from meshlb.transparent import task_ways
from meshlb.transparent.answers import Answers

TRANSPARENT = Policy(client_address="transparent")
REFUSING = Policy(client_address="transparent", fallback="refuse")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


@pytest.fixture
def answers(overlay: Overlay) -> Iterator[Answers]:
    """The first host's."""
    made = Answers(enter_namespace)
    assert made.open(overlay.path(HOSTS[0])), made.problem
    yield made
    made.close()


def serve(
    mesh: Mesh, overlay: Overlay, policy: Policy, prepared: bool = True, masked: tuple[str, ...] = ()
) -> None:
    backend = Backend(TASK, 80, "task", "web.1", "", BackendState.UP, prepared=prepared)
    path = overlay.path(HOSTS[0])
    table = Table((mesh.entry(backend, policy=policy),), str(path), path.stat().st_ino, masked=masked)
    (status,) = mesh.plane.apply(table)
    assert not status.reason


def ask(mesh: Mesh, address: str = CLIENT, port: int = 0, to: str = "127.0.0.1") -> tuple[str, int]:
    """The address and port that the task sees, and ours."""
    with socket.socket() as client:
        client.settimeout(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((address, port))
        client.connect((to, mesh.port.published))
        client.sendall(b"hello")
        seen, at, said = client.recv(100).decode().split()
        assert said == "hello"
        return seen, int(at) - client.getsockname()[1]


def test_a_prepared_task_sees_the_clients_own_address_and_port(
    mesh: Mesh, overlay: Overlay, answers: Answers
) -> None:
    task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    serve(mesh, overlay, REFUSING)
    assert [ask(mesh) for _ in range(20)] == [(CLIENT, 0)] * 20
    assert mesh.port_counts().masked == 0


def test_it_is_seen_where_marks_count_for_who_may_have_sent_a_packet(mesh: Mesh, overlay: Overlay) -> None:
    """As wg-quick has it: of namespaces that are made later, too."""
    path = overlay.path(HOSTS[0])
    setting = Path("/proc/sys/net/ipv4/conf/all/src_valid_mark")
    visit(path, enter_namespace, lambda: setting.write_text("1"))
    answers = Answers(enter_namespace)
    try:
        assert answers.open(path), answers.problem
        task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
        serve(mesh, overlay, REFUSING)
        assert ask(mesh) == (CLIENT, 0)
    finally:
        answers.close()


def test_it_is_seen_where_reverse_paths_are_filtered(
    mesh: Mesh, overlay: Overlay, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without writing to /proc/sys, which an agent in a container cannot."""
    place = overlay.place()
    settings = [Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter") for name in ("all", place.interface)]
    for setting in settings:
        visit(place.path, enter_namespace, lambda: setting.write_text("1"))  # noqa: B023  at once
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse_to_write)
        task_ways.prepare(place, HOSTS, (), enter_namespace)
    assert visit(place.path, enter_namespace, settings[1].read_text) == "2\n"
    serve(mesh, overlay, REFUSING)
    assert ask(mesh) == (CLIENT, 0)


def refuse_to_write(path: Path, _text: str) -> int:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_the_clients_address_costs_few_calls(
    mesh: Mesh, overlay: Overlay, answers: Answers, tmp_path: Path
) -> None:
    task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    serve(mesh, overlay, REFUSING)
    with traced(os.getpid(), tmp_path / "trace", "-e", "trace=%net") as calls:
        for _ in range(20):
            ask(mesh)
    names: dict[int, Counter[str]] = defaultdict(Counter)
    for call in calls:
        names[call.thread][call.name] += call.begins
    workers = [found for found in names.values() if found["accept4"] and found["connect"]]
    total = sum(workers, Counter())
    assert total["connect"] == total["bind"] == 20, total
    assert total["getpeername"] == total["getsockname"] == 0, "accepting tells"


def test_a_task_that_is_not_prepared_sees_the_mesh_or_nobody(
    mesh: Mesh, overlay: Overlay, answers: Answers
) -> None:
    serve(mesh, overlay, TRANSPARENT, prepared=False)
    assert ask(mesh)[0] == HOSTS[0]
    assert mesh.port_counts().masked == 1
    serve(mesh, overlay, REFUSING, prepared=False)
    with pytest.raises(ConnectionError):
        ask(mesh)


def test_where_only_prepared_tasks_serve_one_that_drains_does_so_until_another_is_ready(
    mesh: Mesh, overlay: Overlay, answers: Answers
) -> None:
    task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    new = Backend("10.123.0.8", 80, "new", "web.2", "", BackendState.UP)
    old = Backend(TASK, 80, "task", "web.1", "", BackendState.DRAINING, prepared=True)
    path = overlay.path(HOSTS[0])
    mesh.plane.apply(Table((mesh.entry(new, old, policy=REFUSING),), str(path), path.stat().st_ino))
    assert ask(mesh) == (CLIENT, 0)


def test_a_client_that_must_not_be_shown_is_not(mesh: Mesh, overlay: Overlay, answers: Answers) -> None:
    task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    serve(mesh, overlay, TRANSPARENT, masked=("127.0.0.0/8", "172.31.255.0/30"))
    assert ask(mesh, "127.0.0.1")[0] == HOSTS[0]
    assert ask(mesh) == (CLIENT, 0)
    serve(mesh, overlay, REFUSING, masked=("198.51.100.0/24",))
    with pytest.raises(ConnectionError):
        ask(mesh)


def test_in_mesh_mode_nothing_is_different(mesh: Mesh, overlay: Overlay, answers: Answers) -> None:
    task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    serve(mesh, overlay, Policy())
    assert ask(mesh)[0] == HOSTS[0]
    assert mesh.port_counts().masked == 0


def test_a_port_that_is_taken_is_another_one_of_the_same_address(
    mesh: Mesh, overlay: Overlay, answers: Answers
) -> None:
    task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    serve(mesh, overlay, REFUSING)
    with visit(overlay.path(HOSTS[0]), enter_namespace, socket.socket) as holder:
        holder.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        holder.bind((CLIENT, 0))
        taken = holder.getsockname()[1]
        seen, apart = ask(mesh, port=taken)
        assert (seen, apart == 0) == (CLIENT, False)


def test_one_client_through_two_hosts_at_once_is_two(overlay: Overlay) -> None:
    task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    both = [Answers(enter_namespace) for _ in HOSTS]
    try:
        assert all(each.open(overlay.path(host)) for each, host in zip(both, HOSTS, strict=True))
        for port in range(30_000, 30_050):
            ends = [overlay.socket_as_client(host, port) for host in HOSTS]
            for number, end in enumerate(ends):
                end.sendall(f"{port}-{number}".encode())
            said = [end.recv(100).decode().split() for end in ends]
            assert [(seen, words) for seen, _, words in said] == [
                (CLIENT, f"{port}-{number}") for number in range(2)
            ]
            assert said[0][1] != said[1][1]
            for end in ends:
                end.close()
    finally:
        for each in both:
            each.close()


@pytest.mark.parametrize("at", [80, 81])
def test_datagrams_come_from_their_client(mesh: Mesh, overlay: Overlay, answers: Answers, at: int) -> None:
    task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    port = replace(mesh.port, protocol=Protocol.UDP)
    path = overlay.path(HOSTS[0])
    backend = Backend(TASK, at, "task", "web.1", "", BackendState.UP, prepared=True)
    mesh.plane.apply(Table((mesh.entry(backend, port=port, policy=REFUSING),), str(path), path.stat().st_ino))
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.bind((CLIENT, 0))
        client.connect(("127.0.0.1", port.published))
        for word in ("one", "two"):
            client.send(word.encode())
            assert client.recv(100).decode().split() == [CLIENT, str(client.getsockname()[1]), word]


def test_nothing_is_left_behind(overlay: Overlay) -> None:
    before = [overlay.left(host) for host in (HOSTS[0], TASK)]
    answers = Answers(enter_namespace)
    assert answers.open(overlay.path(HOSTS[0]))
    for _ in range(2):
        task_ways.prepare(overlay.place(), HOSTS, (), enter_namespace)
    task_ways.prepare(overlay.place(), HOSTS[:1], HOSTS, enter_namespace)
    assert overlay.left(TASK).count("meshlb_client_address") == 1
    assert "tcp_fwmark_accept = 1" in overlay.left(TASK)
    assert HOSTS[1] not in overlay.left(TASK)
    for _ in range(2):
        task_ways.remove(overlay.place(), HOSTS, enter_namespace)
    answers.close()
    eventually(
        lambda: [overlay.left(host) for host in (HOSTS[0], TASK)] == before, timeout=10, what="all to be gone"
    )


def test_what_cannot_be_made_is_told(overlay: Overlay) -> None:
    large = replace(overlay.place(), network=ipaddress.IPv4Network("10.0.0.0/8"))
    with pytest.raises(NftError, match="larger than"):
        task_ways.prepare(large, HOSTS, (), enter_namespace)
    answers = Answers(enter_namespace)
    assert not answers.open(Path("/var/run/netns/meshlb-none"))
    assert "meshlb-none: No such file" in answers.problem
