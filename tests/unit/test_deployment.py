"""The agent as a service: its specification, and what keeps it from starting."""

from __future__ import annotations

import click
import docker.errors
import pytest

from meshlb.cli import deploy
from meshlb.cluster import deployment
from meshlb.cluster.spec import Json, changed, created
from meshlb.errors import ConfigError

IMAGE = "localhost/meshlb-agent:1"


def test_the_specification() -> None:
    spec = created("meshlb-agent", "global", deployment.changes(IMAGE, ["--drain", "60"], 60))
    assert spec["Mode"] == {"Global": {}}
    task = spec["TaskTemplate"]
    assert task["Networks"] == [{"Target": "host"}]
    assert task["RestartPolicy"] == {"Condition": "any", "Delay": 2 * 10**9, "MaxAttempts": 0}
    container = task["ContainerSpec"]
    assert container["Image"] == IMAGE
    assert container["Args"] == ["--drain", "60"]
    assert container["Env"] == ["MESHLB_HOST_ROOT=/host"]
    assert container["StopGracePeriod"] == 75 * 10**9
    assert container["ReadOnly"] is True
    assert container["CapabilityDrop"] == ["ALL"]
    assert {"CAP_SYS_ADMIN", "CAP_CHOWN"} < set(container["CapabilityAdd"])
    binds = container["Mounts"][1:]
    shown = [(bind["Source"], bind["Target"], bind.get("ReadOnly")) for bind in binds]
    assert shown == [("/", "/host", True), ("/run", "/run", None)]
    assert {bind["BindOptions"]["Propagation"] for bind in binds} == {"rslave"}
    assert spec["UpdateConfig"]["Order"] == spec["RollbackConfig"]["Order"] == "start-first"


def test_to_deploy_again_leaves_what_others_have_set() -> None:
    spec = created("meshlb-agent", "global", deployment.changes(IMAGE, [], 30))
    spec["TaskTemplate"]["Placement"]["Constraints"] = ["node.labels.edge==yes"]
    spec["TaskTemplate"]["ContainerSpec"]["Env"].append("TZ=Europe/Berlin")
    assert changed(spec, deployment.changes(IMAGE, [], 30)) == spec
    again = changed(spec, deployment.changes("localhost/meshlb-agent:2", [], 30))
    assert again["TaskTemplate"]["ContainerSpec"].pop("Image") == "localhost/meshlb-agent:2"
    del spec["TaskTemplate"]["ContainerSpec"]["Image"]
    assert again == spec


def test_to_deploy_again_without_options_keeps_those_that_there_are() -> None:
    class Engine:
        def inspect_service(self, name: str) -> Json:
            assert name == "meshlb-agent"
            return {"Spec": created(name, "global", deployment.changes(IMAGE, ["--drain", "60"], 60))}

    class Empty:
        def inspect_service(self, _name: str) -> Json:
            raise docker.errors.NotFound("no such service")

    assert deployment.options(Engine()) == ("--drain", "60")  # type: ignore[arg-type]
    assert deployment.options(Empty()) == ()  # type: ignore[arg-type]


def test_specifications_that_say_the_same() -> None:
    assert deployment.says_the_same({"a": {"b": [1]}, "c": []}, {"a": {"b": [1]}, "d": None, "e": {}})
    assert deployment.says_the_same({"Args": None}, {})
    assert not deployment.says_the_same({"a": {"b": [1]}}, {"a": {"b": [2]}})
    assert not deployment.says_the_same({"a": True}, {})
    assert not deployment.says_the_same({"a": {"b": [1]}}, {"a": {}})


def task(node: str, at: int, state: str, error: str = "") -> Json:
    return {
        "NodeID": node,
        "CreatedAt": f"2026-11-28T10:00:{at:02}Z",
        "Status": {"State": state, "Err": error},
    }


def test_who_cannot_run_it_and_who_is_still_to_be_waited_for() -> None:
    tasks = [
        task("a", 9, "ready"),  # tried again and again
        task("a", 5, "rejected", "No such  image: x"),
        task("a", 1, "rejected", "No such  image: x"),
        task("b", 1, "rejected", "No such image: x"),
        task("b", 6, "running"),  # it has got it meanwhile
        task("c", 1, "starting"),
        task("d", 1, "running"),
        task("d", 9, "failed", "task: non-zero exit (1)"),
        task("e", 1, "rejected", "No such image: x"),
        task("e", 2, "starting"),
    ]
    errors, waiting = deployment.sorted_out(tasks, {"a": "node10", "d": "node9"})
    assert list(errors.items()) == [("node9", "task: non-zero exit (1)"), ("node10", "No such image: x")]
    assert waiting == 2
    assert deployment.sorted_out([], {}) == ({}, 0)


def test_what_is_said_of_it() -> None:
    errors = {"n1": "No such image: x", "n2": "it is not a shared or slave mount"}
    errors |= {"n3": "No such image: x", "n4": "starting container failed"}
    image, mount, other = deploy.sentences(errors, "x")
    assert image.startswith(
        "the agent does not run on n1, n3: No such image: x: bring the image there (`docker "
    )
    assert "`docker save x | ssh NODE docker load`" in image
    assert "`mount --make-rshared /` there, at every boot; it starts there by itself then" in mount
    assert other == "the agent does not run on n4: starting container failed"


def test_the_agents_options_are_checked_before_anything_is_done() -> None:
    assert deploy.drain_of(()) == 30
    assert deploy.drain_of(("--drain", "7.5", "--takeover", "always")) == 7.5
    with pytest.raises(click.UsageError, match="not a valid float"):
        deploy.drain_of(("--drain", "long"))
    with pytest.raises(ConfigError, match="--socket is not for an agent that is a service"):
        deploy.drain_of(("--socket", "/tmp/x"))
