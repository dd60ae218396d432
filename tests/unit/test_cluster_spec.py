"""Specifications of services from flags."""

from typing import Any

import pytest

from meshlb.cluster.lists import Edit
from meshlb.cluster.publish import PublishedPort
from meshlb.cluster.spec import Changes, changed, created
from meshlb.errors import ConfigError


def test_the_plainest_service() -> None:
    assert created("", "replicated", Changes(values={"image": "web:latest"})) == {
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {"Init": False, "DNSConfig": {}, "Image": "web:latest"},
            "Resources": {"Limits": {}, "Reservations": {}},
            "Placement": {},
            "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {}},
        "EndpointSpec": {"Mode": "vip"},
    }


def test_a_full_service() -> None:
    spec = created(
        "web",
        "replicated",
        Changes(
            values={
                "image": "web:1",
                "args": ["serve"],
                "limit-memory": 2**26,
                "update-order": "start-first",
            },
            replicas=3,
            lists={
                "env": Edit(("A=b", "C")),
                "label": Edit(("x=y", "flag")),
                "constraint": Edit(("node.role==worker",)),
                "publish": Edit((PublishedPort(8000, 80),)),
                "network": Edit(({"Target": "backend"},)),
            },
        ),
    )
    assert spec["Name"] == "web"
    assert spec["Labels"] == {"x": "y", "flag": ""}
    assert spec["Mode"] == {"Replicated": {"Replicas": 3}}
    template = spec["TaskTemplate"]
    made = {"Image": "web:1", "Args": ["serve"], "Env": ["A=b", "C"], "Init": False, "DNSConfig": {}}
    assert template["ContainerSpec"] == made
    assert template["Resources"] == {"Limits": {"MemoryBytes": 2**26}, "Reservations": {}}
    assert template["Placement"] == {"Constraints": ["node.role==worker"]}
    assert template["Networks"] == [{"Target": "backend"}]
    ports = [{"TargetPort": 8000, "PublishedPort": 80, "Protocol": "tcp", "PublishMode": "ingress"}]
    assert spec["EndpointSpec"] == {"Mode": "vip", "Ports": ports}


def test_an_update_s_parallelism_is_never_left_at_zero() -> None:
    # zero would mean: all tasks at once
    spec = created("web", "replicated", Changes(values={"update-order": "start-first"}))
    assert spec["UpdateConfig"]["Parallelism"] == 1
    assert spec["UpdateConfig"]["Order"] == "start-first"
    policy = changed(spec, Changes(values={"restart-condition": "none"}))["TaskTemplate"]["RestartPolicy"]
    assert policy == {"Condition": "none", "Delay": 5 * 10**9, "MaxAttempts": 0}


def _service() -> dict[str, Any]:
    return created(
        "web",
        "replicated",
        Changes(
            lists={
                "env": Edit(("A=1", "B=2")),
                "label": Edit(("x=y",)),
                "publish": Edit((PublishedPort(8000, 80), PublishedPort(53, 53, "udp"))),
                "mount": Edit(({"Target": "/a"}, {"Target": "/b"})),
            },
        ),
    )


def test_changes_leave_the_rest_alone() -> None:
    before = _service()
    assert changed(before, Changes()) == before
    after = changed(
        before,
        Changes(
            lists={
                "env": Edit(("B=3",), ("A",)),
                "label": Edit(("new=1",), ("x",)),
                "publish": Edit(
                    (PublishedPort(9000, 90),), ((53, "udp", "ingress"), (8000, "udp", "ingress"))
                ),
                "mount": Edit((), ("/a",)),
            },
            replicas=4,
            force=True,
        ),
    )
    assert before == _service()
    assert after["TaskTemplate"]["ContainerSpec"]["Env"] == ["B=3"]
    assert after["Labels"] == {"new": "1"}
    assert [port["PublishedPort"] for port in after["EndpointSpec"]["Ports"]] == [80, 90]
    assert after["TaskTemplate"]["ContainerSpec"]["Mounts"] == [{"Target": "/b"}]
    assert after["Mode"] == {"Replicated": {"Replicas": 4}}
    assert after["TaskTemplate"]["ForceUpdate"] == 1


def test_a_port_may_change_its_mode_but_not_lead_to_two_targets() -> None:
    host = changed(_service(), Changes(lists={"publish": Edit((PublishedPort(8000, 80, "tcp", "host"),))}))
    assert host["EndpointSpec"]["Ports"][-1]["PublishMode"] == "host"
    assert len(host["EndpointSpec"]["Ports"]) == 2
    with pytest.raises(ConfigError, match="port 80/tcp is published twice, to 8000 and to 8001"):
        changed(_service(), Changes(lists={"publish": Edit((PublishedPort(8001, 80),))}))
    both = Changes(
        lists={"publish": Edit((PublishedPort(1), PublishedPort(2)))}
    )  # the engine chooses: no clash
    assert len(created("", "replicated", both)["EndpointSpec"]["Ports"]) == 2


def test_modes() -> None:
    assert created("", "global", Changes())["Mode"] == {"Global": {}}
    job = created("", "replicated-job", Changes(replicas=2))
    assert job["Mode"] == {"ReplicatedJob": {"TotalCompletions": 2, "MaxConcurrent": 2}}
    with pytest.raises(ConfigError, match="not a global one"):
        created("", "global", Changes(replicas=2))


def test_a_port_of_the_other_mode_stays() -> None:
    ports = (PublishedPort(8000, 80), PublishedPort(8000, 8001, mode="host"))
    spec = created("web", "replicated", Changes(lists={"publish": Edit(ports)}))
    for mode, left in (("host", "ingress"), ("ingress", "host")):
        edit = Edit((), ((8000, "tcp", mode),))
        after = changed(spec, Changes(lists={"publish": edit}))
        assert [port["PublishMode"] for port in after["EndpointSpec"]["Ports"]] == [left]


def test_networks_of_an_old_client_are_kept() -> None:
    spec = created("web", "replicated", Changes()) | {"Networks": [{"Target": "a"}]}
    after = changed(spec, Changes(lists={"network": Edit(({"Target": "b"},))}))
    assert after["TaskTemplate"]["Networks"] == [{"Target": "a"}, {"Target": "b"}]
    assert "Networks" not in after
    assert changed(spec, Changes()) == spec


def test_who_says_how_often_to_check_wants_a_check() -> None:
    spec = created("web", "replicated", Changes(no_healthcheck=True))
    after = changed(spec, Changes(values={"health-interval": 5 * 10**9}))
    assert after["TaskTemplate"]["ContainerSpec"]["Healthcheck"] == {"Test": [], "Interval": 5 * 10**9}


def test_a_host_goes_by_any_of_its_names() -> None:
    spec = created("web", "replicated", Changes(lists={"host": Edit(("1.2.3.4 db alias", "1.2.3.5 other"))}))
    for name in ("db", "alias", "db:1.2.3.4"):
        after = changed(spec, Changes(lists={"host": Edit((), (name,))}))
        assert after["TaskTemplate"]["ContainerSpec"]["Hosts"] == ["1.2.3.5 other"]
