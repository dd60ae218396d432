"""The unit under a real systemd, on a node of a real Swarm: installed, killed, hung, upgraded, taken away."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Iterator

import agent_image
import pytest
from load import EchoHold, Load
from systemd_machine import Machine, why_not
from waiting import eventually

from meshlb.lab import Lab
from meshlb.lab.image import IMAGE

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.environ.get("MESHLB_LONG") != "1", reason="three minutes: MESHLB_LONG=1 runs it"),
]
SOON = 60.0  # seconds
UNIT = "meshlb-agent"
MESHLB = "/opt/meshlb/bin/meshlb"
OPTIONS = "/etc/default/meshlb-agent"
AS_PEOPLE_WRITE = r"""# MESHLB_HTTP=off
  ; MESHLB_PEERS=off

MESHLB_TAKEOVER = "auto"
MESHLB_TEST_1="one  # 'two' \"three\" \n" "four"
MESHLB_TEST_2='a\' b"c" \
d
export MESHLB_TEST_3=3
MESHLB_TEST_4=a'b' # c\\d
MESHLB_TEST_5=
"""
MOST_EXPOSED = 3.5  # systemd's own measure, from 0 to 10
LOST_WITH_IT = {"reset", "closed", "short answer"}  # what happens to the connections that a killed agent had


@pytest.fixture(scope="module")
def machine_with_systemd(machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A node with two services, and nothing of meshlb but /opt/meshlb."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("systemd")
    root = agent_image.made(folder / "image")
    (folder / "scratch").mkdir()
    with Lab.up(1, name=f"test-{os.getpid()}-systemd") as lab:
        create = ["docker", "service", "create", "-q", "--detach", "--no-resolve-image", "--replicas", "2"]
        ports = ["-p", "80:8000", "-p", "9000:9000"]
        lab.nodes[0].run([*create, "--name", "web", *ports, IMAGE])
        shown = [*create, "--name", "shown", "-p", "81:8000", "--label", "meshlb.client-address=transparent"]
        lab.nodes[0].run([*shown, IMAGE])
        with Machine(lab.nodes[0], root / "opt/meshlb", folder / "scratch") as made:
            yield made


def answers(machine: Machine, port: int = 80) -> str:
    try:
        with urllib.request.urlopen(f"http://{machine.node.address}:{port}/", timeout=5) as answer:
            return str(answer.readline().decode().strip())
    except OSError:
        return ""


def test_it_is_installed_and_serves(machine_with_systemd: Machine) -> None:
    machine = machine_with_systemd
    machine.write("/etc/default/meshlb-agent", "MESHLB_TAKEOVER=always\n")  # nftables, too, under its limits
    assert machine.run(MESHLB, "agent", "install").splitlines() == [
        "Wrote /etc/systemd/system/meshlb-agent.service.",
        "The agent runs: `meshlb agent status`, `meshlb ps`.",
    ]
    assert machine.show(UNIT, "ActiveState") == "active"  # which it is once it has said READY=1
    assert machine.show(UNIT, "WatchdogUSec") == "1min"
    for port in (80, 81):
        eventually(lambda: answers(machine, port), timeout=SOON, what=f"port {port}")  # noqa: B023
    status = json.loads(machine.run(MESHLB, "agent", "status", "--format", "json"))
    assert {port["state"] for port in status["ports"]} == {"redirected"}
    assert status["problems"] == []
    assert machine.run(MESHLB, "agent", "install")  # a second time changes nothing
    assert int(machine.show(UNIT, "NFileDescriptorStore")) > 3


def test_what_it_may_do(machine_with_systemd: Machine) -> None:
    said = machine_with_systemd.run("systemd-analyze", "security", "--no-pager", f"{UNIT}.service")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    print(f"systemd-analyze security: {found[1]}")
    assert float(found[1]) <= MOST_EXPOSED
    unit = "/etc/systemd/system/meshlb-agent.service"
    assert machine_with_systemd.run("systemd-analyze", "verify", unit) == ""


def test_its_socket_is_group_dockers_also_after_a_reload(machine_with_systemd: Machine) -> None:
    stat = ("stat", "-c", "%U %G %a", "/run/meshlb", "/run/meshlb/agent.sock")
    assert machine_with_systemd.run(*stat).splitlines() == ["root docker 2750", "root docker 660"]
    machine_with_systemd.run("systemctl", "reload", UNIT)
    assert machine_with_systemd.run(*stat).splitlines() == ["root docker 2750", "root docker 660"]
    assert machine_with_systemd.show(UNIT, "ActiveState") == "active"


def test_a_kill_refuses_nobody(machine_with_systemd: Machine) -> None:
    machine = machine_with_systemd
    # What nftables leads elsewhere falls back to Docker's own mesh, which this kernel may not have.
    machine.write("/etc/default/meshlb-agent", "MESHLB_TAKEOVER=auto\n")
    machine.run("systemctl", "restart", UNIT)
    eventually(lambda: answers(machine), timeout=SOON, what="answers")
    restarts = int(machine.show(UNIT, "NRestarts"))
    with Load([f"{machine.node.address}:80"], rate=100, seconds=100) as load:
        machine.run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", UNIT)
        eventually(lambda: int(machine.show(UNIT, "NRestarts")) > restarts, timeout=SOON, what="a restart")
        eventually(lambda: machine.show(UNIT, "ActiveState") == "active", timeout=SOON, what="the next agent")
        report = load.stop()
    print(f"kill: {report.succeeded} connections, {report.reasons()}, slowest {report.slowest:.2f} s")
    assert set(report.reasons()) <= LOST_WITH_IT


def test_one_that_hangs_is_replaced(machine_with_systemd: Machine) -> None:
    machine = machine_with_systemd
    machine.write("/run/systemd/system/meshlb-agent.service.d/soon.conf", "[Service]\nWatchdogSec=3\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", UNIT)
    eventually(lambda: answers(machine), timeout=SOON, what="answers")
    restarts, before = int(machine.show(UNIT, "NRestarts")), machine.show(UNIT, "MainPID")
    with Load([f"{machine.node.address}:80"], rate=20, seconds=100, timeout=30) as load:
        machine.run("systemctl", "kill", "-s", "STOP", "--kill-whom=main", UNIT)
        eventually(lambda: int(machine.show(UNIT, "NRestarts")) > restarts, timeout=SOON, what="a restart")
        eventually(lambda: machine.show(UNIT, "ActiveState") == "active", timeout=SOON, what="the next agent")
        report = load.stop()
    print(f"hung: {report.succeeded} connections, {report.reasons()}, slowest {report.slowest:.2f} s")
    assert "Watchdog timeout" in machine.run("journalctl", "--no-pager", "-u", UNIT)
    assert machine.show(UNIT, "MainPID") != before
    assert set(report.reasons()) <= LOST_WITH_IT


def test_an_upgrade_fails_no_connection_and_is_watched_too(machine_with_systemd: Machine) -> None:
    machine = machine_with_systemd
    restarts, before = machine.show(UNIT, "NRestarts"), machine.show(UNIT, "MainPID")
    with Load([f"{machine.node.address}:80"], rate=50, seconds=100) as load:
        with EchoHold(f"{machine.node.address}:9000", count=4, seconds=100) as held:
            said = machine.run(MESHLB, "agent", "upgrade")
            assert f"{before} ends with its last connection" in said
            kept = held.stop()
        machine.run("sleep", "5")  # longer than the watchdog waits
        report = load.stop()
    print(f"upgrade: {report.succeeded} connections, {report.failed} failed, slowest {report.slowest:.2f} s")
    assert report.failures == []
    assert (kept.failures, kept.open_at_end) == ([], 4)
    assert machine.show(UNIT, "MainPID") not in ("0", before)
    assert machine.show(UNIT, "NRestarts") == restarts
    assert machine.show(UNIT, "ActiveState") == "active"


def settings(machine: Machine) -> dict[str, str]:
    """What of its environment is for the agent."""
    lines = machine.run("cat", f"/proc/{machine.show(UNIT, 'MainPID')}/environ").split("\0")
    return dict(line.split("=", 1) for line in lines if line.startswith("MESHLB_"))


def test_an_upgrade_brings_changed_options_into_force(machine_with_systemd: Machine) -> None:
    machine = machine_with_systemd
    before = machine.show(UNIT, "MainPID")
    machine.write(OPTIONS, AS_PEOPLE_WRITE + "MESHLB_DRAIN=77\n")
    machine.run(MESHLB, "agent", "upgrade")
    eventually(lambda: machine.show(UNIT, "MainPID") != before, timeout=SOON, what="another main process")
    upgraded = settings(machine)
    assert upgraded["MESHLB_DRAIN"] == "77"
    machine.run("systemctl", "restart", UNIT)
    assert settings(machine) == upgraded  # as systemd reads the same file
    before = machine.show(UNIT, "MainPID")
    machine.write(OPTIONS, "MESHLB_TAKEOVER=sometimes\n")
    assert "has not taken over, the log says why" in machine.run(MESHLB, "agent", "upgrade", check=False)
    assert machine.show(UNIT, "MainPID") == before
    assert "'sometimes' is not one of" in machine.run("journalctl", "--no-pager", "-u", UNIT)
    machine.write(OPTIONS, "MESHLB_TAKEOVER=auto\n")
    machine.run(MESHLB, "agent", "upgrade")
    assert answers(machine)


def test_an_agent_from_elsewhere_keeps_the_place_that_it_has_taken(machine_with_systemd: Machine) -> None:
    machine = machine_with_systemd
    begin = "setsid /opt/meshlb/bin/meshlb-agent --replace >/tmp/other.log 2>&1 </dev/null & echo $!"
    other = machine.run("sh", "-c", begin).strip()
    eventually(lambda: machine.show(UNIT, "ActiveState") == "inactive", timeout=SOON, what="the unit's end")
    assert f"(process {other}) looks at everything anew" in machine.run(MESHLB, "agent", "reload")
    assert answers(machine)
    machine.run("kill", other)
    still = ("sh", "-c", f"test ! -d /proc/{other} || echo there")
    eventually(lambda: machine.run(*still) == "", timeout=SOON, what="its end")
    machine.run("systemctl", "start", UNIT)
    eventually(lambda: answers(machine), timeout=SOON, what="answers")


def test_a_stop_waits_for_as_long_as_the_drain(machine_with_systemd: Machine) -> None:
    machine = machine_with_systemd
    machine.write("/etc/default/meshlb-agent", "MESHLB_TAKEOVER=auto\nMESHLB_DRAIN=60\n")
    machine.write("/run/systemd/system/meshlb-agent.service.d/soon.conf", "[Service]\nTimeoutStopSec=3\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", UNIT)
    eventually(lambda: answers(machine), timeout=SOON, what="answers")
    with EchoHold(f"{machine.node.address}:9000", count=4, seconds=100) as held:
        machine.run("systemctl", "stop", "--no-block", UNIT)
        machine.run("sleep", "8")  # longer than systemd waits by itself
        kept = held.stop()
    assert (kept.failures, kept.open_at_end) == ([], 4)
    eventually(lambda: machine.show(UNIT, "ActiveState") == "inactive", timeout=SOON, what="the end")
    assert machine.show(UNIT, "Result") == "success"
    machine.run("systemctl", "start", UNIT)


def test_nothing_is_left(machine_with_systemd: Machine) -> None:
    machine = machine_with_systemd
    assert machine.run(MESHLB, "agent", "uninstall") == "Removed /etc/systemd/system/meshlb-agent.service.\n"
    assert "could not be found" in machine.run("systemctl", "status", UNIT, check=False)
    left = machine.run("sh", "-c", "ls -d /run/meshlb; nft list tables | grep meshlb", check=False)
    assert left.splitlines() == ["ls: cannot access '/run/meshlb': No such file or directory"]
    assert machine.run("find", "/etc/systemd/system", "-name", "meshlb*") == ""
