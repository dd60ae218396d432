"""What docker's own client sends for a command: recorded once, compared with what meshlb sends.

`python tests/support/docker_words.py` records again, with the docker that is installed (written with 28.2).
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

RECORDED = Path(__file__).parent / "recorded" / "docker-words.json"
DOCKER: dict[str, Any] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
ID = "002g0gimp7rbo6ot1vcvkkrsx"

# A service with something in every list; updates are made of it.
FULL = """--name web --replicas 3 -l a=1 -l b=2 --container-label c=3 -e A=1 -e B=2 --ulimit nofile=1:2
    --ulimit nproc=3 --sysctl a.b=c --dns 1.1.1.1 --dns-option x --dns-search a.b --host h:1.2.3.4
    --host g:1.2.3.4 --cap-add net_admin --cap-drop CHOWN --group 12 --generic-resource gpu=2
    --generic-resource ssd=4 --log-driver json-file --log-opt max-size=1m
    --placement-pref spread=node.labels.dc --constraint node.role==worker --network front --secret one
    --config one -p 80:80 -p 443:8443 --mount type=bind,source=/s,target=/a,readonly
    --mount type=volume,source=v,target=/v --health-cmd true --health-retries 3 --entrypoint '/e x'
    --user 1:2 --workdir /w --hostname hh --stop-signal INT --limit-cpu 1 --limit-memory 64m
    --reserve-cpu .5 web:1 run it"""

CREATE = """
web
web:1 sh -c 'a b' --flag
registry.example:5000/a/b
web@sha256:0000000000000000000000000000000000000000000000000000000000000000
--name web web
--replicas 0 web
--replicas 3 web
--mode global web
--mode replicated-job web
--mode replicated-job --replicas 3 web
--mode replicated-job --replicas 3 --max-concurrent 2 web
--mode global-job web
-p 80:8000 web
-p 8000 web
-p 53:53/udp -p 53:53/tcp web
-p 8080-8082:80-82/udp web
-p 9000-9001:80 web
-p target=80 web
-p target=80,published=8080,mode=host,protocol=udp web
-p 443:443 -p 80:80 web
--endpoint-mode dnsrr web
--endpoint-mode vip web
-e A=1 -e B= -e C=a=b web
--env UNSET_IN_TESTS web
-l a -l a=b -l c=d=e web
--container-label q web
--network back --network name=front,alias=z,alias=y web
--network name=back,driver-opt=a=b web
--mount source=v,target=/x,volume-label=a=b,volume-driver=d,volume-opt=o=p,volume-nocopy web
--mount type=volume,target=/x,consistency=cached web
--mount type=tmpfs,target=/x,tmpfs-size=3m,tmpfs-mode=700 web
--mount type=bind,source=/a,target=/x,bind-propagation=rshared,bind-nonrecursive web
--mount type=bind,src=/b,dst=/y,ro --mount type=bind,source=/a,destination=/x,readonly=false web
--mount 'type=volume,source=v,target=/x,"volume-opt=o=a,b"' web
--secret one --secret source=two,target=/run/x,uid=1,gid=2,mode=0400 web
--secret source=one,target=a,mode=400 web
--config two --config src=one,target=/etc/x web
--constraint node.role==worker --constraint 'node.labels.a != b' web
--placement-pref spread=node.labels.b --placement-pref spread=node.labels.a web
--replicas-max-per-node 3 web
--limit-cpu .5 --limit-memory 64m --limit-pids 9 web
--reserve-cpu 0.25 --reserve-memory 1g web
--generic-resource gpu=2 --generic-resource ssd=1 web
--ulimit nproc=3 --ulimit nofile=1:2 web
--ulimit core=-1 web
--ulimit nofile=5:-1 web
--sysctl a.b=c --sysctl net.x=1 web
--dns 8.8.8.8 --dns 1.1.1.1 --dns-option b --dns-option a --dns-search q --dns-search p web
--dns ::1 web
--host db:1.2.3.4 --host six:::1 web
--group 12 --group 5 web
--cap-add net_admin --cap-add CAP_SYS_TIME --cap-drop ALL web
--cap-add foo --cap-drop Foo web
--cap-add ALL --cap-add SYS_TIME web
--health-cmd 'curl -f x' --health-interval 3s --health-retries 2 web
--health-timeout 1m --health-start-period 1m30s web
--no-healthcheck web
--restart-condition none web
--restart-condition on-failure --restart-delay 3s --restart-max-attempts 0 --restart-window 1m web
--restart-delay 0s web
--restart-max-attempts 4 web
--update-delay 3s web
--update-parallelism 0 --update-monitor 9s --update-max-failure-ratio .5 web
--update-failure-action rollback --update-order start-first web
--rollback-parallelism 2 --rollback-delay 1s --rollback-monitor 9s --rollback-max-failure-ratio .25 web
--rollback-failure-action continue --rollback-order start-first web
--stop-signal SIGINT --stop-grace-period 1m web
--stop-grace-period 0s web
--entrypoint "sh -c 'a b'" --workdir /w --user 1:2 --hostname '{{.Node.Hostname}}' web
--init --tty --read-only web
--init=false --tty=true --read-only=false web
--log-driver json-file web
--log-driver syslog --log-opt a=b --log-opt c=d web
"""

UPDATE = """
--image web:2
--image other --args 'd e'
--args "" --entrypoint ""
--entrypoint "a 'b c'"
--force
--replicas 9
--replicas 0 --force
--label-add a=9 --label-rm b --label-add z
--label-rm nope
--container-label-add c=4 --container-label-rm c
--env-add B=7 --env-rm A --env-add C
--env-rm A --env-rm B
--ulimit-add nproc=5 --ulimit-rm nofile
--ulimit-add cpu=5
--ulimit-rm nofile --ulimit-rm nproc
--sysctl-add x.y=1 --sysctl-rm a.b
--dns-add 2.2.2.2 --dns-rm 1.1.1.1 --dns-option-add b --dns-option-add a
--dns-search-add q --dns-search-rm a.b
--dns-add 1.0.0.1
--host-add k:5.5.5.5 --host-rm h
--host-rm h:1.2.3.4 --host-add h:9.9.9.9
--host-add h:9.9.9.9
--cap-add CHOWN
--cap-drop NET_ADMIN
--cap-add ALL
--cap-drop ALL
--cap-add NET_ADMIN
--cap-drop SYS_TIME --cap-add SYS_TIME
--cap-add SYS_TIME --cap-add AUDIT_WRITE
--cap-add CHOWN --cap-drop CHOWN
--cap-add RESET --cap-drop RESET
--cap-drop RESET --cap-drop KILL
--group-add 5 --group-rm 12
--group-add 09
--generic-resource-add fpga=1 --generic-resource-rm gpu
--generic-resource-add gpu=5
--log-driver syslog
--log-driver syslog --log-opt a=b
--placement-pref-add spread=node.labels.x --placement-pref-rm spread=node.labels.dc
--placement-pref-add spread=node.labels.a
--constraint-add node.labels.z==b --constraint-add node.labels.a==b
--constraint-rm node.role==worker
--network-add back
--network-add name=back,alias=y --network-rm front
--secret-add two --secret-rm one
--secret-add source=one,target=x
--config-add two --config-rm one
--config-rm one
--publish-add 81:81 --publish-rm 80
--publish-add 20:20 --publish-add 100:100/udp
--publish-rm 8443/tcp
--publish-rm 443:8443
--mount-add type=volume,source=w,target=/v --mount-rm /a
--mount-add type=volume,source=b,target=/b
--mount-rm /a --mount-rm /v
--health-cmd 'x y'
--no-healthcheck
--health-interval 5s --health-start-period 3s
--health-retries 0
--user "" --workdir /x --hostname ""
--stop-signal "" --stop-grace-period 0s
--limit-cpu 2 --reserve-memory 5m
--limit-memory 0 --limit-pids 5
--replicas-max-per-node 4
--restart-condition none
--restart-max-attempts 3 --restart-window 3s
--update-delay 3s
--update-parallelism 0 --update-max-failure-ratio .5 --update-failure-action rollback
--rollback-order start-first
--endpoint-mode dnsrr
--init --tty --read-only
--init=false
"""


def lines(table: str) -> list[str]:
    """The commands of a table, without its empty lines."""
    return [line for line in table.splitlines() if line]


def answers(base: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a daemon says to a client that makes or changes the service `web`."""
    service = {"ID": ID, "Version": {"Index": 7}, "Spec": base or {}}
    stored = [{"ID": f"id-{name}", "Spec": {"Name": name}} for name in ("one", "two")]
    return {
        "POST /services/create": {"ID": ID},
        "GET /networks/front": {"Id": "net-front", "Name": "front", "Scope": "swarm"},
        "GET /networks/back": {"Id": "net-back", "Name": "back", "Scope": "swarm"},
        "GET /secrets": stored,
        "GET /configs": stored,
        "GET /services/web": service,
        "GET /distribution/web:1/json": Refusal(500, "no registry"),
        f"POST /services/{ID}/update": {"Warnings": None},
    }


def sent(daemon: Daemon) -> dict[str, Any]:
    """The body of the one request that changes something."""
    (body,) = (request.body for request in daemon.requests if request.method == "POST")
    return dict(body)


def ask_docker(words: list[str], base: dict[str, Any] | None = None) -> dict[str, Any]:
    """What docker sends for `docker service WORDS`."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as daemon:
        daemon.answers |= answers(base)
        subprocess.run(
            ["docker", "service", *words],
            env=_environment(daemon, folder),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return sent(daemon)


def shown_service(full: dict[str, Any]) -> dict[str, Any]:
    """A service with all that `inspect --pretty` shows."""
    way = {"Parallelism": 1, "Delay": 3 * 10**9, "FailureAction": "pause", "Monitor": 5 * 10**9}
    spec = json.loads(json.dumps(full))
    spec["UpdateConfig"] = way | {"MaxFailureRatio": 0.25, "Order": "stop-first"}
    spec["RollbackConfig"] = way | {"MaxFailureRatio": 0, "Order": "start-first"}
    spec["TaskTemplate"]["Placement"]["MaxReplicas"] = 3
    check = {"Interval": 90 * 10**9, "Timeout": 10**9, "StartPeriod": 25 * 10**8}
    spec["TaskTemplate"]["ContainerSpec"]["Healthcheck"] |= check
    return {
        "ID": ID,
        "Version": {"Index": 7},
        "CreatedAt": "2000-01-01T00:00:00Z",
        "UpdatedAt": "2000-01-01T00:00:00Z",
        "Spec": spec,
        "Endpoint": {"Spec": spec["EndpointSpec"], "Ports": spec["EndpointSpec"]["Ports"]},
        "UpdateStatus": {
            "State": "completed",
            "StartedAt": "2000-01-01T00:00:00Z",
            "CompletedAt": "2000-01-01T00:00:00Z",
            "Message": "update completed",
        },
    }


def plain_service(mode: dict[str, Any]) -> dict[str, Any]:
    """A service with as little as there can be."""
    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "web:1@sha256:aa"}}, "Mode": mode}
    return {"ID": ID, "Version": {"Index": 7}, "Spec": spec, "Endpoint": {}}


MODES: dict[str, dict[str, Any]] = {
    "global": {"Global": {}},
    "replicated": {"Replicated": {"Replicas": 2}},
}


def _record() -> dict[str, Any]:
    start = ["create", "-d", "--no-resolve-image"]
    change = ["update", "-d", "--no-resolve-image"]
    full = ask_docker([*start, *shlex.split(FULL)])
    shown = {"full": shown_service(full)} | {name: plain_service(mode) for name, mode in MODES.items()}
    return {
        "full": full,
        "pretty": {
            name: docker_says(["inspect", "--pretty", "web"], service) for name, service in shown.items()
        },
        "create": {line: ask_docker([*start, *shlex.split(line)]) for line in lines(CREATE)},
        "update": {line: ask_docker([*change, *shlex.split(line), "web"], full) for line in lines(UPDATE)},
    }


def docker_says(words: list[str], service: dict[str, Any]) -> str:
    """What docker prints for `docker service WORDS`."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as daemon:
        network = {"Id": "net-front", "Name": "front"}
        daemon.answers |= {"GET /services/web": service, "GET /networks/net-front": network}
        return subprocess.run(
            ["docker", "service", *words], env=_environment(daemon, folder), check=True, stdout=-1, text=True
        ).stdout


def _environment(daemon: Daemon, folder: str) -> dict[str, str]:
    settings = {"DOCKER_HOST": daemon.address, "DOCKER_API_VERSION": "1.41", "DOCKER_CONFIG": folder}
    return os.environ | settings


def _one_case_a_line(found: dict[str, Any]) -> str:
    text = json.dumps(found, sort_keys=True)
    cases = (json.dumps(case) + ": " for verb in ("create", "update") for case in found[verb])
    for case in cases:
        text = text.replace(case, f"\n{case}", 1)
    return text + "\n"


if __name__ == "__main__":
    RECORDED.write_text(_one_case_a_line(_record()))
