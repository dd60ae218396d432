"""What docker's own client asks and prints for the verbs of swarms and nodes: recorded, to be compared.

`python tests/support/docker_cluster_words.py` records again, with the docker that is here (28.2).
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from daemon import Daemon, Refusal, running

RECORDED = Path(__file__).parent / "recorded" / "docker-cluster-words.json"
SERVICE, TASK = "002g0gimp7rbo6ot1vcvkkrsx", "ub97gyix7c55pxeqtii6ji7u1"
KEY = "SWMKEY-1-x\n"  # on standard input

# What follows `docker`; meshlb's verbs of the swarm stand at the top.
LINES = """
swarm init --availability drain --cert-expiry 48h --advertise-addr 1.2.3.4 --data-path-port 5000
swarm init --default-addr-pool 10.0.0.0/8 --default-addr-pool-mask-length 20 --force-new-cluster
swarm init --dispatcher-heartbeat 9s --max-snapshots 3 --snapshot-interval 500 --task-history-limit 2
swarm init --autolock --external-ca protocol=cfssl,url=https://x/y --data-path-addr 1.2.3.5
swarm join --token x --availability pause --listen-addr 1.1.1.1 --data-path-addr 1.2.3.4 1.2.3.5
swarm leave
swarm leave -f
swarm join-token worker
swarm join-token manager
swarm join-token -q worker
swarm join-token --rotate manager
swarm update --autolock
swarm update --autolock=false
swarm update --cert-expiry 48h --dispatcher-heartbeat 9s
swarm update --max-snapshots 3 --snapshot-interval 500 --task-history-limit 2
swarm update --external-ca protocol=cfssl,url=https://x/y
swarm unlock
swarm unlock-key
swarm unlock-key -q
swarm unlock-key --rotate
swarm ca
swarm ca --rotate -d
swarm ca --rotate -d --cert-expiry 3h
swarm ca --cert-expiry 3h
node ls
node list
node ls -q
node ls --format json
node ls --filter role=manager
node ls --format 'table {{.ID}} {{.Self}}\\t{{.TLSStatus}}'
node ls --format '{{.Hostname}}: {{.Status}} {{.Availability}} {{.ManagerStatus}}'
node ps node1
node ps
node ps --no-trunc node1
node ps self nope
node ps nope
node ps -q node1
node ps --no-resolve node1
node inspect node1
node inspect self
node inspect node1 nope
node inspect nope
node inspect node1 --pretty
node inspect self node1 --pretty
node inspect --format '{{.Spec.Role}} {{.Status.Addr}}' node1 self
node inspect --format json node1
node update --availability drain --label-add b=2 --label-rm a node1
node update --label-add c node1
node update --role manager node1
node update --role worker --availability active node2
node update --label-rm zz node1
node promote node1
node promote nope node1
node demote node2
node rm node1
node rm node1 node2
node remove -f node1
"""

_ROOT = {"TrustRoot": "PEM\n", "CertIssuerSubject": "c3Vi", "CertIssuerPublicKey": "a2V5"}


def lines() -> list[str]:
    """The commands."""
    return [line for line in LINES.splitlines() if line]


def _node(number: int, role: str, **more: Any) -> dict[str, Any]:
    engine = {
        "EngineVersion": "20.10.24",
        "Labels": {"x": "y"},
        "Plugins": [{"Type": "Network", "Name": "overlay"}, {"Type": "Log", "Name": "syslog"}],
    }
    return {
        "ID": f"nodeid{number}",
        "Version": {"Index": 4},
        "CreatedAt": "2026-11-20T10:00:00.5Z",
        "UpdatedAt": "2026-11-20T10:00:00.5Z",
        "Spec": {"Labels": {"a": "1"}, "Role": role, "Availability": "active"},
        "Description": {
            "Hostname": f"node{number}",
            "Platform": {"Architecture": "x86_64", "OS": "linux"},
            "Resources": {"NanoCPUs": 2 * 10**9, "MemoryBytes": 25275973632},
            "Engine": engine,
            "TLSInfo": _ROOT,
        },
        "Status": {"State": "ready", "Addr": f"10.77.0.{number}"},
        **more,
    }


def answers() -> dict[str, Any]:
    """What a manager says; `node2` is itself."""
    reach = {"Leader": True, "Reachability": "reachable", "Addr": "10.77.0.2:2377"}
    one, two = _node(1, "worker"), _node(2, "manager", ManagerStatus=reach)
    member = {
        "NodeID": "nodeid2",
        "NodeAddr": "10.77.0.2",
        "LocalNodeState": "active",
        "ControlAvailable": True,
        "RemoteManagers": [{"NodeID": "nodeid2", "Addr": "10.77.0.2:2377"}],
        "Cluster": {"ID": "x", "TLSInfo": _ROOT},
    }
    spec = {
        "Name": "default",
        "Labels": {},
        "Orchestration": {"TaskHistoryRetentionLimit": 5},
        "Raft": {"SnapshotInterval": 10000, "KeepOldSnapshots": 0, "ElectionTick": 10, "HeartbeatTick": 1},
        "Dispatcher": {"HeartbeatPeriod": 5 * 10**9},
        "CAConfig": {"NodeCertExpiry": 7776 * 10**12},
        "EncryptionConfig": {"AutoLockManagers": False},
    }
    task = {
        "ID": TASK,
        "ServiceID": SERVICE,
        "Slot": 1,
        "NodeID": "nodeid1",
        "CreatedAt": "2000-11-23T09:00:00Z",
        "DesiredState": "running",
        "Spec": {"ContainerSpec": {"Image": "whoami:latest"}},
        "Status": {"State": "running", "Timestamp": "2000-11-23T09:00:00Z"},
    }
    service = {
        "ID": SERVICE,
        "Spec": {"Name": "web", "TaskTemplate": {}, "Mode": {"Replicated": {}}},
    }
    return {
        "GET /info": {"Swarm": member},
        "GET /swarm": {
            "ID": "x",
            "Version": {"Index": 9},
            "JoinTokens": {"Worker": "SWMTKN-w", "Manager": "SWMTKN-m"},
            "TLSInfo": _ROOT,
            "Spec": spec,
        },
        "GET /swarm/unlockkey": {"UnlockKey": KEY.strip()},
        "POST /swarm/init": "nodeid2",
        **{f"POST /swarm/{verb}": b"" for verb in ("join", "leave", "unlock", "update")},
        "GET /nodes": [one, two],
        **{f"GET /nodes/{name}": one for name in ("node1", "nodeid1")},
        **{f"GET /nodes/{name}": two for name in ("node2", "nodeid2")},
        "GET /nodes/nope": Refusal(404, "node nope not found"),
        "POST /nodes/nodeid1/update": b"",
        "POST /nodes/nodeid2/update": b"",
        "DELETE /nodes/node1": b"",
        "DELETE /nodes/node2": Refusal(400, "node nodeid2 is not down and can't be removed"),
        "GET /tasks": [task],
        "GET /services": [service],
        f"GET /services/{SERVICE}": service,
    }


def changes(daemon: Daemon) -> list[list[Any]]:
    """The requests that change something."""
    found = (request for request in daemon.requests if request.method != "GET")
    return [[request.method, request.path, request.body] for request in found if request.path != "/_ping"]


def _ask(words: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as daemon:
        daemon.answers |= answers()
        settings = {"DOCKER_HOST": daemon.address, "DOCKER_API_VERSION": "1.41", "DOCKER_CONFIG": folder}
        done = subprocess.run(
            ["docker", *words],
            env=os.environ | settings,
            input=KEY,
            capture_output=True,
            text=True,
            check=False,
        )
        return {"code": done.returncode, "out": done.stdout, "changes": changes(daemon)}


if __name__ == "__main__":
    recorded = {line: _ask(shlex.split(line)) for line in lines()}
    RECORDED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
