"""The lab itself: nodes that are machines of their own, and ends that leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from load import EchoHold, Load
from waiting import eventually

from meshlb.lab import IMAGE, Lab, LabError, Node, down, names, process

pytestmark = pytest.mark.lab

SMALL = f"test-{os.getpid()}-small"
MESHLB = [sys.executable, "-m", "meshlb", "lab"]


@pytest.fixture
def small(machine: None) -> Iterator[Lab]:
    """A lab of one engine, for what would spoil the session's."""
    with Lab.up(1, name=SMALL, swarm=False) as lab:
        yield lab
    assert_nothing_left(SMALL)


def assert_nothing_left(name: str) -> None:
    assert process.find(name) == []
    assert name not in names()
    assert name not in Path("/proc/mounts").read_text()
    links = subprocess.run(["ip", "link", "show"], capture_output=True, text=True, check=True).stdout
    assert f"meshlb-lab:{name}\n" not in links
    assert not [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(f"/meshlb-lab/{name}")]
    # Whoever was born in a node has its name among the arguments of its engine, shim or script.
    assert not [pid for pid, arguments in _commands() if f"meshlb-lab/{name}/" in arguments]


def _commands() -> Iterator[tuple[str, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                yield entry.name, (entry / "cmdline").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue


def reaches(source: Node, target: Node, port: int = 7946) -> bool:
    """Whether a connection from node to node comes about (7946 is Swarm's gossip)."""
    connect = f"import socket; socket.create_connection(('{target.address}', {port}), 1)"
    return source.run([sys.executable, "-c", connect], check=False).returncode == 0


def ready_nodes(manager: Node) -> set[str]:
    """The names of the nodes that the Swarm takes for alive."""
    nodes = manager.engine.get("/nodes")
    return {node["Description"]["Hostname"] for node in nodes if node["Status"]["State"] == "ready"}


def placed(manager: Node, service: str) -> list[str]:
    """The nodes that run the service's tasks."""
    command = ["docker", "service", "ps", service, "--filter=desired-state=running"]
    out = manager.run([*command, "--format={{.Node}} {{.CurrentState}}"]).stdout
    return sorted(line.split()[0] for line in out.splitlines() if " Running " in line)


def test_the_nodes_form_one_swarm(lab: Lab) -> None:
    assert ready_nodes(lab.nodes[0]) == {"node1", "node2", "node3"}
    assert [node.swarm for node in lab.status()] == ["manager", "worker", "worker"]
    assert {node.state for node in lab.status()} == {"running"}


def test_a_node_is_a_machine_of_its_own(lab: Lab) -> None:
    node = lab.node("node2")
    assert node.run(["hostname"]).stdout == "node2\n"
    assert node.address in node.run(["ip", "-brief", "address"]).stdout
    assert node.run(["ls", "/sys/class/net"]).stdout.split().count("eth0") == 1
    assert (
        node.run(["docker", "info", "--format={{.Name}} {{.Swarm.NodeAddr}}"]).stdout
        == f"node2 {node.address}\n"
    )
    assert "/var/lib/meshlb-lab" not in node.run(["cat", "/proc/1/cgroup"]).stdout
    assert Path("/proc/mounts").read_text().count(lab.name) == 0


def test_a_command_that_fails_says_what_it_printed(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"node1: sh -c .*: exit status 3: too bad"):
        lab.nodes[0].run(["sh", "-c", "echo too bad >&2; exit 3"])
    with pytest.raises(LabError, match=r"no end after 0\.2 s"):
        lab.nodes[0].run(["sleep", "60"], timeout=0.2)


def test_a_started_command_gets_our_signals(lab: Lab) -> None:
    child = lab.nodes[0].popen(["sleep", "60"])
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM


def test_up_finds_a_lab_that_is_up(lab: Lab) -> None:
    before = [node.pid for node in lab.status()]
    again = Lab.up(name=lab.name)
    assert [node.pid for node in again.status()] == before
    with pytest.raises(LabError, match=f"is up with 3 nodes; first: meshlb lab down --name {lab.name}"):
        Lab.up(5, name=lab.name)


def test_a_service_runs_on_every_node(lab: Lab) -> None:
    manager = lab.nodes[0]
    manager.run(["docker", "service", "create", "--quiet", "--name=everywhere", "--replicas=3", IMAGE])
    try:
        assert placed(manager, "everywhere") == ["node1", "node2", "node3"]
    finally:
        manager.run(["docker", "service", "rm", "everywhere"])


def test_a_cut_node_runs_on_alone(lab: Lab) -> None:
    first, _, third = lab.nodes
    pid = third.pid
    lab.cut(third)
    try:
        assert not reaches(first, third)
        assert [node.state for node in lab.status()] == ["running", "running", "cut"]
        assert third.pid == pid
    finally:
        lab.heal(third)
    eventually(lambda: reaches(first, third), timeout=20, what="the mended cable")


@pytest.mark.timeout(360)
def test_tasks_of_a_killed_node_move_and_it_comes_back(lab: Lab) -> None:
    manager, _, third = lab.nodes
    manager.run(["docker", "service", "create", "--quiet", "--name=moving", "--replicas=3", IMAGE])
    try:
        lab.kill(third)
        assert lab.status()[2].state == "off"
        with pytest.raises(
            LabError, match=f"powered off; start it with: meshlb lab start --name {lab.name} node3"
        ):
            third.run(["true"])
        eventually(
            lambda: (
                sorted(set(placed(manager, "moving"))) == ["node1", "node2"]
                and len(placed(manager, "moving")) == 3
            ),
            timeout=180,
            what="the tasks to move",
            every=0.2,
        )
        lab.start(third)
        eventually(lambda: "node3" in ready_nodes(manager), timeout=60, what="node3 to be back in the swarm")
    finally:
        manager.run(["docker", "service", "rm", "moving"])
        if third.init is None:
            lab.start(third)


def test_an_engine_that_is_killed_is_started_again(small: Lab) -> None:
    (node,) = small.nodes
    before = node.run(["cat", "/run/docker.pid"]).stdout
    node.run(["sh", "-c", "kill -9 $(cat /run/docker.pid)"])
    node.wait_engine()
    assert node.run(["cat", "/run/docker.pid"]).stdout != before
    small.restart(node)  # although its log now tells of an engine that ended
    assert small.status()[0].state == "running"


def test_two_labs_have_nothing_in_common(lab: Lab, small: Lab) -> None:
    assert not lab.subnet.overlaps(small.subnet)
    assert not reaches(small.nodes[0], lab.nodes[0])


def test_the_image_answers_under_load(small: Lab) -> None:
    (node,) = small.nodes
    run = [
        "docker",
        "run",
        "--detach",
        "--network=host",
        "--env=START_DELAY=4",
        "--env=NODE=n",
        "--name=web",
        IMAGE,
    ]
    node.run(run)
    web, echo = f"{node.address}:8000", f"{node.address}:9000"
    with Load([web], concurrency=2, seconds=60) as load:
        eventually(lambda: _listens(node.address, 8000), timeout=20, what="the server to listen")
        early = load.stop()
    assert set(early.reasons()) == {"refused"}
    overflows = _counted(node, "netstat", "TcpExt", "ListenOverflows")
    with Load([web], concurrency=40) as load:
        eventually(
            lambda: _counted(node, "snmp", "Tcp", "PassiveOpens") > 2000, timeout=60, what="2000 connections"
        )
        busy = load.stop()
    assert (busy.failed, list(busy.answers[web])) == (0, ["node1"])
    full = _counted(node, "netstat", "TcpExt", "ListenOverflows") - overflows
    assert full == 0, "a full accept queue costs its clients a second"
    with Load([web], concurrency=8) as load:
        node.run(["docker", "stop", "web"])
        code = node.run(["docker", "inspect", "--format={{.State.ExitCode}}", "web"]).stdout
        node.run(["docker", "start", "web"])
        ended_well = load.stop()
    assert code == "0\n", "who was accepted was answered"
    # Who comes between its last look and the end of the listener is reset by the kernel.
    assert {"refused"} <= set(ended_well.reasons()) <= {"refused", "reset"}
    eventually(lambda: _listens(node.address, 9000), timeout=20, what="the server to listen again")
    with EchoHold(echo, count=20) as hold:
        node.run(["docker", "kill", "web"])
        eventually(lambda: not _listens(node.address, 9000), timeout=20, what="the container to end")
        ended = hold.stop()
    assert ended.succeeded >= 20
    assert (ended.failed, ended.open_at_end) == (20, 0)


def _counted(node: Node, file: str, protocol: str, name: str) -> int:
    """What the node's kernel has counted since its start."""
    said = node.run(["grep", f"^{protocol}:", f"/proc/net/{file}"]).stdout
    names, values = (line.split() for line in said.splitlines())
    return int(values[names.index(name)])


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def test_down_takes_running_containers_and_orphaned_shims_along(small: Lab) -> None:
    (node,) = small.nodes
    node.run(["docker", "run", "--detach", IMAGE])
    node.run(["sh", "-c", "kill -9 $(cat /run/docker.pid)"])  # its containers and containerd live on
    child = node.popen(["sleep", "600"])
    small.down()
    assert child.returncode == -signal.SIGKILL
    assert_nothing_left(SMALL)


def test_a_lab_that_lost_a_node_is_mended_with_its_disk(small: Lab) -> None:
    (node,) = small.nodes
    node.run(["docker", "tag", IMAGE, "kept"])
    os.kill(node.pid, signal.SIGKILL)
    eventually(lambda: node.init is None, timeout=20, what="the node to die")
    again = Lab.up(name=SMALL, swarm=False)
    assert again.nodes[0].run(["docker", "image", "inspect", "kept"]).returncode == 0


def test_what_only_looks_like_ours_is_left_alone(small: Lab) -> None:
    impostor = subprocess.Popen(["sh", "-c", "sleep 600; :", process.MARK, SMALL, "node9"])
    try:
        small.down()
        assert impostor.poll() is None
    finally:
        impostor.kill()
        impostor.wait()


def test_nor_is_a_process_of_a_node_taken_for_a_node(small: Lab) -> None:
    (node,) = small.nodes
    nested = node.popen(["sh", "-c", "sleep 600; :", process.MARK, SMALL, "node9"])
    try:
        eventually(lambda: _runs(nested.pid, "node9"), timeout=20, what="the process to be there")
        assert [init.node for init in process.find(SMALL)] == ["node1", process.SWITCH]
    finally:
        nested.kill()
        nested.wait()


def _runs(pid: int, last_argument: str) -> bool:
    return (Path("/proc") / str(pid) / "cmdline").read_text().split("\0")[-2:-1] == [last_argument]


def test_an_engine_that_does_not_come_up_is_quoted(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dockerd").write_text("#!/bin/sh\necho the disk is on fire\nexit 3\n")
    (tmp_path / "dockerd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(LabError, match=r"(?s)dockerd of node1 does not come up:.*the disk is on fire"):
        Lab.up(2, name=SMALL, swarm=False)
    assert_nothing_left(SMALL)


MOMENTS: dict[str, Callable[[], bool]] = {
    "planned": lambda: SMALL in names(),
    "switch": lambda: any(init.node == process.SWITCH for init in process.find(SMALL)),
    "nodes": lambda: len(process.find(SMALL)) == 4,
    "engines": lambda: any(f"/{SMALL}/node3/data" in arguments for _, arguments in _commands()),
}


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name
)
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_up_leaves_nothing(lab: Lab, moment: str, number: signal.Signals) -> None:
    up = subprocess.Popen(
        [*MESHLB, "up", "--name", SMALL],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(MOMENTS[moment], timeout=30, what=f"the moment: {moment}")
        up.send_signal(number)
        assert up.wait(30) != 0
        if number == signal.SIGKILL:
            down(SMALL)
        assert_nothing_left(SMALL)
    finally:
        up.kill()
        up.wait()
        down(SMALL)


def test_two_ups_at_once_do_not_meet(lab: Lab) -> None:
    up = subprocess.Popen([*MESHLB, "up", "--name", SMALL], stdout=subprocess.DEVNULL)
    try:
        eventually(MOMENTS["switch"], timeout=30, what="the first to be under way")
        with pytest.raises(LabError, match=f"lab {SMALL} is being changed by another process"):
            Lab.up(name=SMALL)
        assert up.wait(60) == 0
    finally:
        up.wait()
        down(SMALL)
    assert_nothing_left(SMALL)


def test_the_command_runs_in_a_node_as_on_a_machine(lab: Lab) -> None:
    def meshlb(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*MESHLB, arguments[0], "--name", lab.name, *arguments[1:]]
        return subprocess.run(command, input="typed\n", capture_output=True, text=True, check=False)

    ran = meshlb("exec", "node2", "--", "sh", "-c", "hostname; pwd; cat; exit 7")
    assert (ran.returncode, ran.stdout) == (7, f"node2\n{Path.cwd()}\ntyped\n")
    assert meshlb("exec", "node2", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    unknown = meshlb("exec", "node9", "true")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.endswith(f"lab {lab.name} has no node node9; it has node1, node2, node3\n")
    status = meshlb("status")
    assert [line.split()[:3] for line in status.stdout.splitlines()[1:]] == [
        [node.name, node.address, "running"] for node in lab.nodes
    ]


def test_exec_passes_our_end_on(lab: Lab) -> None:
    command = [*MESHLB, "exec", "--name", lab.name, "node1", "--", "sleep", "61.5"]
    outer = subprocess.Popen(command)
    try:
        eventually(lambda: _inside(lab) == 1, timeout=20, what="the command to run")
        outer.terminate()
        assert outer.wait(20) == 128 + signal.SIGTERM
        assert _inside(lab) == 0
    finally:
        outer.kill()
        outer.wait()


def _inside(lab: Lab) -> int:
    return lab.nodes[0].run(["ps", "-e", "-o", "args"]).stdout.splitlines().count("sleep 61.5")
