"""A real Prometheus scrapes the lab's agents, found by the Swarm and by the agents themselves."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import HTTP_PORT, Agent
from docker_cli import Serve, docker
from promtool import MONITORING, dashboard_queries, program, promtool
from waiting import eventually

from meshlb.errors import LabError
from meshlb.lab import Lab, Node

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("agents"), pytest.mark.timeout(120)]

PORT = 9090


class Prometheus:
    """One in a lab's node, with both ways of discovery of examples/monitoring."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self.log = node, folder / "log"
        for name in ("rules.yml", "alerts.yml"):
            (folder / name).write_text((MONITORING / name).read_text())
        (folder / "prometheus.yml").write_text(_configuration())
        options = [
            "--config.file",
            str(folder / "prometheus.yml"),
            "--storage.tsdb.path",
            str(folder / "data"),
        ]
        with self.log.open("w") as log:
            self.process = node.popen(
                [program("prometheus"), *options, "--web.listen-address", f"0.0.0.0:{PORT}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, what: str, **parameters: str) -> Any:
        """The `data` of an answer of its API; None while it does not answer."""
        url = f"http://{self.node.address}:{PORT}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def query(self, query: str) -> list[dict[str, Any]]:
        """The series that a query has now."""
        return list((self.ask("query", query=query) or {"result": []})["result"])

    def targets(self) -> set[tuple[str, str, str]]:
        """Job, instance and health of all targets."""
        found = (self.ask("targets", state="active") or {"activeTargets": []})["activeTargets"]
        return {(each["labels"]["job"], each["labels"]["instance"], each["health"]) for each in found}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def _configuration() -> str:
    """The first file as it is but for ports and times, and the job of the second by another name."""
    first, second = ((MONITORING / name).read_text() for name in ("prometheus.yml", "prometheus-http-sd.yml"))
    job = second.partition("scrape_configs:\n")[2].replace("job_name: meshlb", "job_name: by-http")
    return (first + job).replace("9377", str(HTTP_PORT)).replace(": 5s", ": 1s").replace(": 15s", ": 2s")


@pytest.fixture
def prometheus(lab: Lab, tmp_path: Path) -> Iterator[Prometheus]:
    made = Prometheus(lab.nodes[0], tmp_path)
    yield made
    made.stop()


def test_a_real_prometheus(lab: Lab, serve: Serve, prometheus: Prometheus, agents: dict[str, Agent]) -> None:
    serve("whoami", "--publish", "80:8000", "--replicas", "3")
    wanted = {(job, node.name, "up") for job in ("meshlb", "by-http") for node in lab.nodes}
    eventually(lambda: prometheus.targets() == wanted, timeout=60, what=f"targets {wanted}")

    def served() -> bool:
        _ask_all(lab)
        up = prometheus.query('sum by (instance) (meshlb_backend_up{job="meshlb", service="whoami"})')
        return {each["metric"]["instance"]: each["value"][1] for each in up} == {
            n.name: "3" for n in lab.nodes
        }

    eventually(served, timeout=60, what="three backends on every node")
    eventually(
        lambda: not _empty(prometheus, lab), timeout=60, what="every query of the dashboard to have data"
    )
    text = (
        urllib.request.urlopen(f"http://{lab.nodes[0].address}:{HTTP_PORT}/metrics", timeout=5)
        .read()
        .decode()
    )
    assert promtool("check", "metrics", text=text).strip() == ""
    alerts = {
        each["labels"]["alertname"]
        for each in prometheus.ask("alerts")["alerts"]
        if each["state"] == "firing"
    }
    assert alerts <= {"MeshNodeSilent"}, alerts  # an earlier test may have silenced one
    docker(lab, "service", "rm", "whoami")
    docker(lab, "service", "create", "--quiet", "--detach", "--name", "whoami", "meshlb/whoami")
    gone = 'meshlb_backend_up{service="whoami"} or meshlb_connections_total{service="whoami"}'
    eventually(lambda: not prometheus.query(gone), timeout=60, what="series of what is gone to be gone")


def _ask_all(lab: Lab) -> None:
    for node in lab.nodes:
        try:
            urllib.request.urlopen(f"http://{node.address}:80/", timeout=5).read()
        except OSError:
            return


def _empty(prometheus: Prometheus, lab: Lab) -> list[str]:
    """Queries without data, of those that have some while all is well."""
    _ask_all(lab)
    return [each for each in dashboard_queries() if "refused" not in each and not prometheus.query(each)]


def test_the_stack_is_one_that_docker_takes(lab: Lab) -> None:
    deploy = [
        "docker",
        "stack",
        "deploy",
        "--resolve-image=never",
        "-c",
        str(MONITORING / "stack.yml"),
        "monitoring",
    ]
    with pytest.raises(LabError, match="choose one for the user admin"):
        lab.nodes[0].run(["env", "GRAFANA_PASSWORD=", *deploy])
    lab.nodes[0].run(["env", "GRAFANA_PASSWORD=secret", *deploy])
    try:
        found = docker(lab, "stack", "services", "--format", "{{.Name}}", "monitoring")
        assert set(str(found).split()) == {"monitoring_grafana", "monitoring_prometheus"}
    finally:
        docker(lab, "stack", "rm", "monitoring")
