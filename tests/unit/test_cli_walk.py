"""The verbs, from the command line to the daemon's HTTP: words, columns, requests and exit codes."""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from daemon import Daemon, Refusal, Request, running

from meshlb import __version__
from meshlb.cli import VERBS, main

NODE = "r6b6655bu5x8dvitx33z14ih3"
TOKEN = "SWMTKN-1-5b9258akf8fy5du0riv29izm1mo8nej8ox4r5vuqbb3awltu30-6m0g7yiow6wrgwyvlospsotms"
SERVICE_ID = "002g0gimp7rbo6ot1vcvkkrsx"
NOT_A_MANAGER = Refusal(503, "This node is not a swarm manager. Worker nodes can't be used to view or modify")

Run = Callable[..., Result]


def _info(**swarm: Any) -> dict[str, Any]:
    managers = [{"NodeID": NODE, "Addr": "10.77.0.1:2377"}]
    member = {
        "NodeID": NODE,
        "NodeAddr": "10.77.0.1",
        "LocalNodeState": "active",
        "ControlAvailable": True,
        "RemoteManagers": managers,
        "Managers": 1,
        "Nodes": 3,
        "Cluster": {"ID": "ba765lstvfnuq7wzeoea99pmh", "TLSInfo": {"TrustRoot": "PEM\n"}},
    }
    return {
        "Swarm": member | swarm,
        "ServerVersion": "20.10.24+dfsg1",
        "KernelVersion": "6.1.0",
        "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
        "OSType": "linux",
        "Architecture": "x86_64",
        "NCPU": 2,
        "MemTotal": 25275973632,
        "Name": "node1",
        "DockerRootDir": "/nonexistent/docker",
    }


def _service(replicas: int = 1) -> dict[str, Any]:
    return {
        "ID": SERVICE_ID,
        "Version": {"Index": 12},
        "Spec": {
            "Name": "whoami",
            "Labels": {},
            "TaskTemplate": {"ContainerSpec": {"Image": "whoami:latest"}},
            "Mode": {"Replicated": {"Replicas": replicas}},
            "UpdateConfig": {"Monitor": 1},
        },
        "Endpoint": {
            "Ports": [{"Protocol": "tcp", "TargetPort": 8000, "PublishedPort": 80, "PublishMode": "ingress"}]
        },
        "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": replicas},
    }


def _task(slot: int) -> dict[str, Any]:
    return {
        "ID": f"ub97gyix7c55pxeqtii6ji7u{slot}",
        "ServiceID": SERVICE_ID,
        "Slot": slot,
        "NodeID": NODE,
        "CreatedAt": "2026-11-23T09:00:00Z",
        "DesiredState": "running",
        "Spec": {"ContainerSpec": {"Image": "whoami:latest"}},
        "Status": {"State": "running", "Timestamp": "2000-11-23T09:00:00Z"},
    }


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as table:
        node = {
            "ID": NODE,
            "Spec": {"Availability": "active"},
            "Description": {"Hostname": "node1", "Engine": {"EngineVersion": "20.10.24+dfsg1"}},
            "Status": {"State": "ready"},
            "ManagerStatus": {"Leader": True, "Reachability": "reachable"},
        }
        table.answers |= {
            "GET /info": _info(),
            "GET /swarm": {"JoinTokens": {"Worker": TOKEN, "Manager": f"{TOKEN}m"}, "Version": {"Index": 7}}
            | {"Spec": {"Name": "default"}},
            "GET /nodes": [node],
            "GET /services": [_service()],
            "GET /services/whoami": _service(),
            f"GET /services/{SERVICE_ID}": _service(),
            "GET /services/nope": Refusal(404, "service nope not found"),
            "DELETE /services/nope": Refusal(404, "service nope not found"),
            "DELETE /services/whoami": b"",
            "GET /tasks": [_task(1)],
            "POST /services/create": {"ID": SERVICE_ID},
            "GET /distribution/whoami:latest/json": Refusal(500, "no registry"),
            f"POST /services/{SERVICE_ID}/update": {"Warnings": None},
        }
        yield table


@pytest.fixture
def run(daemon: Daemon, tmp_path: Path) -> Run:
    runner = CliRunner()
    environment = {"DOCKER_HOST": daemon.address, "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    return lambda *arguments: runner.invoke(main, arguments, env=environment)


def test_help_is_one_screen_and_loads_no_sdk() -> None:
    code = "import sys; from meshlb.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('docker' in sys.modules or 'meshlb.cluster' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) <= 42
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    for name in (name for group in VERBS.values() for name in group):
        assert f"\n  {name} " in done.stdout


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshlb", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"meshlb version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("foo",), 1, "meshlb: no such command 'foo'"),
        (("service", "foo"), 1, "meshlb: no such command 'foo'"),
        (("service", "create"), 1, "meshlb: missing argument 'IMAGE'"),
        (("join-token",), 1, "meshlb: missing argument '(worker|manager)'"),
        (("service", "create", "--foo", "x"), 125, "--foo"),
        (("service", "create", "-p", "foo:80", "x"), 125, '"foo" in "foo:80" is not a published port'),
        (("service", "create", "--limit-memory", "1x", "x"), 125, '"1x" is not a size in bytes'),
        (("service", "create", "--balance", "foo", "x"), 125, '"foo" is not one of roundrobin'),
        (("service", "scale", "whoami"), 1, '"whoami" is not SERVICE=REPLICAS'),
        (("service", "ls", "--filter", "web"), 125, '"web" is not key=value'),
        (("join-token", "boss"), 1, '"boss" is not a role: it is one of worker or manager'),
    ],
)
def test_misuse_has_docker_s_exit_codes(run: Run, arguments: tuple[str, ...], code: int, says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout == ""


def test_a_group_without_a_verb_shows_its_help(run: Run) -> None:
    result = run("service")
    assert result.exit_code == 0
    assert "scale" in result.stdout


def test_init_prints_the_line_for_the_others(run: Run, daemon: Daemon) -> None:
    daemon.answers["POST /swarm/init"] = NODE
    result = run("init", "--advertise-addr", "10.77.0.1")
    assert result.exit_code == 0
    assert result.stdout == (
        f"Swarm initialized: current node ({NODE}) is now a manager.\n\n"
        "To add a worker to this swarm, run the following command:\n\n"
        f"    meshlb join --token {TOKEN} 10.77.0.1:2377\n\n"
        "To add a manager to this swarm, run 'meshlb join-token manager' and follow the instructions.\n"
    )
    (asked,) = daemon.asked("POST", "/swarm/init")
    assert (asked.body["AdvertiseAddr"], asked.body["ListenAddr"]) == ("10.77.0.1", "0.0.0.0:2377")


def test_init_with_autolock_shows_the_key(run: Run, daemon: Daemon) -> None:
    daemon.answers |= {"POST /swarm/init": NODE, "GET /swarm/unlockkey": {"UnlockKey": "SWMKEY-1-x"}}
    assert "\n    SWMKEY-1-x\n" in run("init", "--autolock").stdout
    assert daemon.asked("POST", "/swarm/init")[0].body["Spec"]["EncryptionConfig"]["AutoLockManagers"]


def test_join(run: Run, daemon: Daemon) -> None:
    daemon.answers |= {"POST /swarm/join": b"", "GET /info": _info(ControlAvailable=False)}
    result = run("join", "--token", TOKEN, "--availability", "drain", "10.77.0.1:2377")
    assert result.stdout == "This node joined a swarm as a worker.\n"
    body = daemon.asked("POST", "/swarm/join")[0].body
    assert body["RemoteAddrs"] == ["10.77.0.1:2377"]
    assert (body["JoinToken"], body["Availability"]) == (TOKEN, "drain")


def test_join_that_is_refused(run: Run, daemon: Daemon) -> None:
    daemon.answers["POST /swarm/join"] = Refusal(400, "invalid join token")
    result = run("join", "--token", "foo", "10.77.0.1:2377")
    assert result.exit_code == 1
    assert result.stderr.startswith("meshlb: the join token is not valid for this swarm: ")
    assert len(result.stderr.splitlines()) == 1


def test_join_tokens(run: Run, daemon: Daemon) -> None:
    daemon.answers["POST /swarm/update"] = b""
    assert run("join-token", "-q", "manager").stdout == f"{TOKEN}m\n"
    assert run("join-token", "worker").stdout == (
        "To add a worker to this swarm, run the following command:\n\n"
        f"    meshlb join --token {TOKEN} 10.77.0.1:2377\n\n"
    )
    assert run("join-token", "--rotate", "worker").stdout.startswith(
        "Successfully rotated worker join token."
    )
    (asked,) = daemon.asked("POST", "/swarm/update")
    assert asked.query == {"version": "7", "rotateWorkerToken": "true"}
    assert asked.body == {"Name": "default"}


def test_leave(run: Run, daemon: Daemon) -> None:
    daemon.answers["POST /swarm/leave"] = b""
    assert run("leave").stdout == "Node left the swarm.\n"
    run("leave", "--force")
    assert [asked.query["force"] for asked in daemon.asked("POST", "/swarm/leave")] == ["false", "true"]


def test_info_on_a_manager(run: Run) -> None:
    assert run("info").stdout.splitlines() == [
        "Server Version: 20.10.24+dfsg1",
        "Swarm: active",
        f" NodeID: {NODE}",
        " Is Manager: true",
        " ClusterID: ba765lstvfnuq7wzeoea99pmh",
        " Managers: 1",
        " Nodes: 3",
        f" CACertHash: sha256:{hashlib.sha256(b'PEM' + bytes([10])).hexdigest()}",
        " Node Address: 10.77.0.1",
        " Manager Addresses:",
        "  10.77.0.1:2377",
        "Kernel Version: 6.1.0",
        "Operating System: Debian GNU/Linux 12 (bookworm)",
        "OSType: linux",
        "Architecture: x86_64",
        "CPUs: 2",
        "Total Memory: 23.54GiB",
        "Name: node1",
        "Docker Root Dir: /nonexistent/docker",
    ]


def test_info_elsewhere(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    certificate = tmp_path / "swarm/certificates/swarm-root-ca.crt"
    certificate.parent.mkdir(parents=True)
    certificate.write_text("PEM\n")
    worker = _info(ControlAvailable=False, Cluster=None, Managers=0, Nodes=0)
    daemon.answers["GET /info"] = worker | {"DockerRootDir": str(tmp_path)}
    shown = run("info").stdout
    assert " Is Manager: false\n CACertHash: sha256:" in shown
    assert "Managers:" not in shown
    found = json.loads(run("info", "--format", "json").stdout)
    assert (found["Swarm"]["Managers"], found["Swarm"]["IsManager"], found["NCPU"]) == (None, False, 2)
    template = "{{.Swarm.IsManager}} {{.Swarm.ControlAvailable}} {{.Swarm.NodeAddr}}"
    assert run("info", "--format", template).stdout == "false false 10.77.0.1\n"
    daemon.answers["GET /info"] = _info(LocalNodeState="inactive", NodeID="", RemoteManagers=None)
    assert "Swarm: inactive\nKernel" in run("info").stdout


def test_nodes(run: Run) -> None:
    assert run("node", "ls").stdout == (
        "ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION\n"
        f"{NODE} *   node1      Ready     Active         Leader           20.10.24+dfsg1\n"
    )
    assert run("node", "ls", "-q").stdout == f"{NODE}\n"
    assert json.loads(run("node", "ls", "--format", "json").stdout)["Self"] is True


def test_services_and_tasks(run: Run, daemon: Daemon) -> None:
    assert run("service", "ls").stdout == (
        "ID             NAME      MODE         REPLICAS   IMAGE           PORTS\n"
        "002g0gimp7rb   whoami    replicated   1/1        whoami:latest   *:80->8000/tcp\n"
    )
    assert run("service", "ls", "-q", "--filter", "name=who").stdout == "002g0gimp7rb\n"
    asked = daemon.asked("GET", "/services")[-1]
    assert json.loads(asked.query["filters"]) == {"name": ["who"]}
    shown = run("service", "ps", "whoami").stdout
    assert shown.startswith(
        "ID             NAME       IMAGE           NODE      DESIRED STATE   CURRENT STATE"
    )
    assert shown.splitlines()[1].startswith("ub97gyix7c55   whoami.1   whoami:latest   node1     Running")
    assert run("service", "ps", "-q", "whoami").stdout == "ub97gyix7c55pxeqtii6ji7u1\n"


def test_services_that_are_not_there(run: Run) -> None:
    missing = "meshlb: no such service: nope (`meshlb service ls` lists them)\n"
    both = run("service", "ps", "whoami", "nope")
    assert (both.exit_code, both.stderr) == (1, missing)
    assert "whoami.1" in both.stdout
    none = run("service", "ps", "nope")
    assert (none.exit_code, none.stdout, none.stderr) == (1, "", missing)
    removed = run("service", "rm", "nope", "whoami")
    assert (removed.exit_code, removed.stdout, removed.stderr) == (1, "whoami\n", missing)
    scaled = run("service", "scale", "-d", "nope=2", "whoami=2")
    assert (scaled.exit_code, scaled.stdout, scaled.stderr) == (1, "whoami scaled to 2\n", missing)
    inspected = run("service", "inspect", "whoami", "nope")
    assert (inspected.exit_code, len(json.loads(inspected.stdout))) == (1, 1)


def test_create_waits_until_the_service_has_converged(run: Run, daemon: Daemon) -> None:
    result = run("service", "create", "--name", "whoami", "-p", "80:8000", "whoami", "serve", "--fast")
    assert result.exit_code == 0
    assert result.stderr.startswith("image whoami:latest could not be accessed on a registry to record\n")
    assert result.stdout.splitlines()[0] == SERVICE_ID
    assert result.stdout.splitlines()[1] == "overall progress: 1 out of 1 tasks"
    assert result.stdout.splitlines()[-1] == "verify: Service whoami converged"
    body = daemon.asked("POST", "/services/create")[0].body
    assert body["Name"] == "whoami"
    container = body["TaskTemplate"]["ContainerSpec"]
    assert (container["Image"], container["Args"]) == ("whoami:latest", ["serve", "--fast"])
    ports = [{"TargetPort": 8000, "PublishedPort": 80, "Protocol": "tcp", "PublishMode": "ingress"}]
    assert body["EndpointSpec"] == {"Mode": "vip", "Ports": ports}
    assert body["Mode"] == {"Replicated": {}}


def test_create_pins_the_digest_and_the_platforms(run: Run, daemon: Daemon) -> None:
    daemon.answers["GET /distribution/web:1/json"] = {
        "Descriptor": {"digest": "sha256:abc"},
        "Platforms": [
            {"architecture": "amd64", "os": "linux"},
            {"architecture": "arm", "os": "linux", "variant": "v7"},
        ],
    }
    result = run("service", "create", "-d", "web:1")
    assert (result.stderr, result.stdout) == ("", f"{SERVICE_ID}\n")
    template = daemon.asked("POST", "/services/create")[0].body["TaskTemplate"]
    assert template["ContainerSpec"]["Image"] == "web:1@sha256:abc"
    assert template["Placement"]["Platforms"] == [
        {"Architecture": "amd64", "OS": "linux"},
        {"Architecture": "", "OS": "linux"},
    ]
    run("service", "create", "-d", "--no-resolve-image", "web:1")
    assert (
        daemon.asked("POST", "/services/create")[1].body["TaskTemplate"]["ContainerSpec"]["Image"] == "web:1"
    )


def test_meshlb_s_flags_are_labels(run: Run, daemon: Daemon) -> None:
    run("service", "create", "-d", "--balance", "roundrobin", "-l", "a=b", "--no-resolve-image", "web")
    labels = daemon.asked("POST", "/services/create")[0].body["Labels"]
    assert labels == {"a": "b", "meshlb.balance": "roundrobin"}


def test_variables_come_from_flags_files_and_the_environment(
    run: Run, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "1")
    file = tmp_path / "variables"
    file.write_text("# a comment\nA=file\n\nB=file\n")
    flags = ("-e", "A=flag", "-e", "FROM_OUTSIDE", "-e", "UNSET_THERE", "--env-file", str(file))
    run("service", "create", "-d", "--no-resolve-image", *flags, "web")
    environment = daemon.asked("POST", "/services/create")[0].body["TaskTemplate"]["ContainerSpec"]["Env"]
    assert environment == ["A=flag", "B=file", "FROM_OUTSIDE=1", "UNSET_THERE"]
    missing = run("service", "create", "--env-file", "/nonexistent", "web")
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (125, True)


def test_update_sends_the_whole_specification(run: Run, daemon: Daemon) -> None:
    result = run("service", "update", "-d", "--label-add", "a=b", "--publish-add", "81:8000", "whoami")
    assert (result.exit_code, result.stdout) == (0, "whoami\n")
    (asked,) = daemon.asked("POST", f"/services/{SERVICE_ID}/update")
    assert asked.query["version"] == "12"
    assert asked.body["Labels"] == {"a": "b"}
    assert asked.body["TaskTemplate"]["ContainerSpec"]["Image"] == "whoami:latest"
    assert asked.body["Mode"] == {"Replicated": {"Replicas": 1}}


def test_an_update_that_another_came_in_between_is_made_again(run: Run, daemon: Daemon) -> None:
    def once(_: Request) -> Any:
        daemon.answers[f"POST /services/{SERVICE_ID}/update"] = {}
        return Refusal(500, "rpc error: code = Unknown desc = update out of sequence")

    daemon.answers[f"POST /services/{SERVICE_ID}/update"] = once
    assert run("service", "scale", "-d", "whoami=2").stdout == "whoami scaled to 2\n"
    assert len(daemon.asked("POST", f"/services/{SERVICE_ID}/update")) == 2


def test_an_update_that_never_gets_through_ends(run: Run, daemon: Daemon) -> None:
    daemon.answers[f"POST /services/{SERVICE_ID}/update"] = Refusal(500, "update out of sequence")
    result = run("service", "scale", "-d", "whoami=2")
    assert result.exit_code == 1
    assert "at the same moment: try again" in result.stderr
    assert len(daemon.asked("POST", f"/services/{SERVICE_ID}/update")) == 3


def test_on_a_worker(run: Run, daemon: Daemon) -> None:
    daemon.answers |= {"GET /services": NOT_A_MANAGER, "GET /info": _info(ControlAvailable=False)}
    result = run("service", "ls")
    assert result.exit_code == 1
    assert result.stderr == (
        "meshlb: this node is not a swarm manager, and only managers see and change the cluster: "
        "run this on a manager (10.77.0.1)\n"
    )


def test_an_old_engine_does_not_count_its_tasks(run: Run, daemon: Daemon) -> None:
    daemon.answers["GET /version"] = {"ApiVersion": "1.40"}
    service = _service(2)
    del service["ServiceStatus"]
    daemon.answers["GET /services"] = [service]
    assert "  1/2  " in run("service", "ls").stdout


# The SDK forgets to close a socket that could not be connected.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("host", ["unix://{}/none.sock", "tcp://127.0.0.1:1"])
def test_no_daemon(tmp_path: Path, host: str) -> None:
    host = host.format(tmp_path)
    result = CliRunner().invoke(main, ["-H", host, "node", "ls"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"meshlb: cannot connect to the Docker daemon at {host}: is it running?")
    assert len(result.stderr.splitlines()) == 1
    del result
    gc.collect()


def test_no_such_context(tmp_path: Path) -> None:
    environment = {"DOCKER_HOST": None, "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    result = CliRunner().invoke(main, ["-c", "nope", "node", "ls"], env=environment)
    assert (result.exit_code, result.stderr) == (
        1,
        'meshlb: there is no docker context "nope" (`docker context ls` lists them)\n',
    )


def test_a_daemon_that_answers_garbage(run: Run, daemon: Daemon) -> None:
    daemon.answers["GET /nodes"] = b"<html>"
    result = run("node", "ls")
    assert result.exit_code == 1
    assert result.stderr.startswith("meshlb: cannot talk to the Docker daemon at unix://")
