"""The engine's JSON as rows: what docker's own client shows for the same."""

from datetime import UTC, datetime
from typing import Any

import pytest

from meshlb.cluster.image import displayed, tagged
from meshlb.cluster.info import from_json
from meshlb.cluster.listing import moment, published, service_row, task_rows
from meshlb.cluster.node import row


def _port(published: int, target: int, protocol: str = "tcp", mode: str = "ingress") -> dict[str, Any]:
    return {
        "PublishedPort": published,
        "TargetPort": target,
        "Protocol": protocol,
        "PublishMode": mode,
    }


@pytest.mark.parametrize(
    ("ports", "shown"),
    [
        ([], ""),
        ([_port(80, 8000)], "*:80->8000/tcp"),
        ([_port(99, 80), _port(100, 80)], "*:99-100->80/tcp"),
        ([_port(100, 100), _port(101, 101), _port(102, 102)], "*:100-102->100-102/tcp"),
        ([_port(53, 53, "udp"), _port(53, 53)], "*:53->53/tcp, *:53->53/udp"),
        ([_port(80, 8000), _port(443, 8443)], "*:80->8000/tcp, *:443->8443/tcp"),
        ([_port(90, 9), _port(91, 8)], "*:90->9/tcp, *:91->8/tcp"),
        ([_port(80, 8000, mode="host")], ""),
    ],
)
def test_ports(ports: list[dict[str, Any]], shown: str) -> None:
    assert published(ports) == shown


def _service(**more: Any) -> dict[str, Any]:
    return {
        "ID": "002g0gimp7rbo6ot1vcvkkrsx",
        "Spec": {
            "Name": "whoami",
            "TaskTemplate": {"ContainerSpec": {"Image": "whoami:latest"}},
            "Mode": {"Replicated": {"Replicas": 3}},
        },
        "ServiceStatus": {"RunningTasks": 2, "DesiredTasks": 3},
        **more,
    }


def test_a_service() -> None:
    shown = service_row(_service(Endpoint={"Ports": [_port(80, 8000)]}))
    assert (shown.name, shown.mode, shown.replicas, shown.ports) == (
        "whoami",
        "replicated",
        "2/3",
        "*:80->8000/tcp",
    )
    limited = _service()
    limited["Spec"]["TaskTemplate"]["Placement"] = {"MaxReplicas": 1}
    assert service_row(limited).replicas == "2/3 (max 1 per node)"


def _task(identity: str, slot: int, created: str, **more: Any) -> dict[str, Any]:
    return {
        "ID": identity,
        "ServiceID": "s1",
        "Slot": slot,
        "CreatedAt": created,
        "NodeID": "n1",
        "DesiredState": "running",
        "Spec": {"ContainerSpec": {"Image": "web:1@sha256:abc"}},
        "Status": {"State": "running", "Timestamp": "2026-11-23T09:37:09.219563511Z"},
        **more,
    }


def test_tasks_by_slot_the_newest_first() -> None:
    tasks = [
        _task("a", 10, "2026-11-23T09:00:00Z"),
        _task("b", 2, "2026-11-23T09:00:00Z"),
        _task("c", 2, "2026-11-23T09:00:01.5Z"),
    ]
    rows = task_rows(tasks, {"s1": "web"}, {"n1": "node1"})
    assert [(row.id, row.name, row.previous, row.node) for row in rows] == [
        ("c", "web.2", False, "node1"),
        ("b", "web.2", True, "node1"),
        ("a", "web.10", False, "node1"),
    ]


def test_a_task_without_slot_node_or_names() -> None:
    ports = {"Ports": [_port(80, 8000, mode="host")]}
    status = {"State": "rejected", "Timestamp": "2026-11-23T09:00:00Z", "Err": "no", "PortStatus": ports}
    task = _task("a", 0, "2026-11-23T09:00:00Z", NodeID="", Status=status)
    (shown,) = task_rows([task], {}, {})
    assert (shown.name, shown.node, shown.error, shown.ports) == ("s1.", "", "no", "*:80->8000/tcp")


def test_moments_have_any_number_of_digits() -> None:
    assert moment("2026-11-23T09:37:09.219563511Z") == datetime(2026, 11, 23, 9, 37, 9, 219563, UTC)
    assert moment("2026-11-23T09:37:09.5Z") == datetime(2026, 11, 23, 9, 37, 9, 500000, UTC)
    assert moment("0001-01-01T00:00:00Z").year == 1


def test_images() -> None:
    names = ["web", "web:1", "registry:5000/web", "registry:5000/web:1", "web@sha256:abc"]
    assert [tagged(name) for name in names] == [
        "web:latest",
        "web:1",
        "registry:5000/web:latest",
        "registry:5000/web:1",
        "web@sha256:abc",
    ]
    assert displayed("web:1@sha256:abc") == "web:1"
    assert displayed("web@sha256:abc") == "web@sha256:abc"


def test_nodes() -> None:
    node = {
        "ID": "n1",
        "Spec": {"Availability": "drain"},
        "Description": {"Hostname": "host", "Engine": {"EngineVersion": "20.10"}},
        "Status": {"State": "ready"},
        "ManagerStatus": {"Reachability": "reachable"},
    }
    shown = row(node, "n1")
    assert (shown.status, shown.availability, shown.manager, shown.itself) == (
        "Ready",
        "Drain",
        "Reachable",
        True,
    )
    assert row({"ID": "n2", "Spec": {}}, "n1").manager == ""


# A real root certificate and the third part of a join token of the same swarm, from Engine 20.10.
ROOT = """-----BEGIN CERTIFICATE-----
MIIBajCCARCgAwIBAgIUMmEG07fAJ9NB0tizCwQSEOB4QrYwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAxMIc3dhcm0tY2EwHhcNMjYxMTIzMDkzMjAwWhcNNDYxMTE4MDkz
MjAwWjATMREwDwYDVQQDEwhzd2FybS1jYTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABG+ZUrjuepKYYh1xzZ0v8hx9hBqzmW15nmNocNm6GxVLVTwH0R3P7p9aVR2V
zaJwwHU95gmAGI8rvcVU+V0QN6CjQjBAMA4GA1UdDwEB/wQEAwIBBjAPBgNVHRMB
Af8EBTADAQH/MB0GA1UdDgQWBBS/OEnuP1yTmseR+Fa16ZTRqjZJtjAKBggqhkjO
PQQDAgNIADBFAiBRhdk/0/E2ghvIEWHbEVLSMBzDkRNCkbtr3kYvUkGGkAIhAOXB
CBKwl52ZJPyuRSjf7p68oVgOjcr74ThdmQi7wMjE
-----END CERTIFICATE-----
"""
TOKEN = "5b9258akf8fy5du0riv29izm1mo8nej8ox4r5vuqbb3awltu30"


def test_the_hash_of_the_root_certificate_is_that_of_the_join_tokens() -> None:
    cluster = {"ID": "c1", "TLSInfo": {"TrustRoot": ROOT}}
    manager = from_json({"Swarm": {"LocalNodeState": "active", "ControlAvailable": True, "Cluster": cluster}})
    worker = from_json({"Swarm": {"LocalNodeState": "active", "Cluster": None}}, ROOT.encode())
    assert manager.swarm.ca_cert_hash == f"sha256:{int(TOKEN, 36):064x}"
    assert worker.swarm.ca_cert_hash == manager.swarm.ca_cert_hash
    assert (manager.swarm.managers, worker.swarm.managers) == (0, None)


def test_a_node_that_left_has_no_hash() -> None:
    assert from_json({"Swarm": {"LocalNodeState": "inactive"}}, ROOT.encode()).swarm.ca_cert_hash == ""
