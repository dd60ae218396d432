"""The sentences of `meshlb why`: where a connection ends, why, and what to do."""

from __future__ import annotations

from typing import Any, cast

import pytest

from meshlb.cli import firewall
from meshlb.cli.probe import REFUSED, Attempt, Finding
from meshlb.cli.reach import MOST_TRIED, Tried, backend, reach
from meshlb.cli.why import Asked, Swarm, connection, listener, no_backend, published, silent, stranger
from meshlb.cluster.trouble import reasons, unhealthy
from meshlb.ports.holder import Holder

STATUS: dict[str, Any] = {
    "ports": [
        {"port": "80/tcp", "service": "web", "state": "serving", "reason": ""},
        {"port": "443/tcp", "service": "web", "state": "failed", "reason": "nginx (process 7) holds it"},
        {"port": "53/udp", "service": "dns", "state": "redirected", "reason": ""},
    ],
    "nodes": [
        {"address": "192.0.2.1", "name": "node1", "state": "up"},
        {"address": "192.0.2.2", "name": "node2", "state": "dead"},
    ],
    "problems": ["service web: label meshlb.foo: unknown key", "service dns: another"],
}


class Known:
    """A manager's engine that knows this."""

    def __init__(self, troubles: tuple[str, ...] = (), outside: tuple[str, ...] = ()) -> None:
        self._troubles, self._outside = troubles, outside

    def troubles(self, _: str) -> tuple[str, ...]:
        return self._troubles

    def outside(self, _: Asked) -> tuple[str, ...]:
        return self._outside


def known(troubles: tuple[str, ...] = (), outside: tuple[str, ...] = ()) -> Swarm:
    return cast(Swarm, Known(troubles, outside))


def findings(port: int, protocol: str = "tcp", other: str = "", swarm: Swarm | None = None) -> list[Finding]:
    return list(published(STATUS, Asked(port, protocol, other), None, swarm or known()))


def test_a_port_that_is_served() -> None:
    served, problem = findings(80)
    assert served == Finding(True, "port 80/tcp of service web is served by the agent")
    assert (problem.good, problem.text) == (None, "service web: label meshlb.foo: unknown key")
    assert "is led to the agent by nftables" in findings(53, "udp")[0].text
    assert "is published through the routing mesh" in findings(80, other="192.0.2.2")[0].text


def test_a_port_that_another_process_holds() -> None:
    failed = findings(443)[0]
    assert failed.good is False
    assert failed.text == "port 443/tcp of service web is not served: nginx (process 7) holds it"
    assert failed.advice


def test_a_port_that_is_not_published() -> None:
    unknown, who = published(STATUS, Asked(81, "tcp"), Holder(7, "nginx"), known())
    assert unknown.good is False
    assert "published are: 80/tcp, 443/tcp, 53/udp" in unknown.text
    assert unknown.advice == "docker service update --publish-add 81:TARGET SERVICE"
    assert who.text == "port 81/tcp: nginx (process 7) listens on it"
    assert listener(Asked(81, "udp"), None) == "port 81/udp: nobody listens on it, as far as we may see"
    assert len(findings(81, other="192.0.2.2")) == 1  # who listens there is not for us to see


@pytest.mark.parametrize(("port", "protocol", "meant"), [(80, "udp", "80/tcp"), (53, "tcp", "53/udp")])
def test_a_port_of_the_other_protocol(port: int, protocol: str, meant: str) -> None:
    found = findings(port, protocol)[0]
    assert found.good is False
    assert found.advice.startswith(f"{meant} is published: `meshlb why {meant}`")


def test_a_port_that_is_published_without_the_mesh() -> None:
    found = findings(9100, swarm=known(outside=("exporter",)))[0]
    assert found.text.endswith("; service exporter publishes it with mode=host")


def test_a_service_without_tasks_says_why() -> None:
    (alone,) = no_backend("web", known())
    assert (alone.good, alone.advice) == (False, "`docker service ps web`, on a manager, tells why")
    first, reason = no_backend("web", known(("a task is rejected: No such image: x",)))
    assert (first.text, first.advice) == ("it has no backend: no task of service web runs", "")
    assert (reason.good, reason.text) == (None, "a task is rejected: No such image: x")


def task(state: str, error: str = "", created: str = "2026-01-01") -> dict[str, Any]:
    return {"CreatedAt": created, "Status": {"State": state, "Err": error}}


SERVICE: dict[str, Any] = {"Spec": {"Name": "web", "Mode": {"Replicated": {"Replicas": 2}}}}


def test_swarm_s_own_words() -> None:
    failed = task("failed", "task: non-zero exit (137): dockerexec: unhealthy container", "2026-01-02")
    pending = task("pending", "no suitable node (scheduling constraints not satisfied on 3 nodes)")
    assert reasons(SERVICE, [pending, failed, failed, task("running")]) == (
        "a task is failed: task: non-zero exit (137): dockerexec: unhealthy container",
        "a task is pending: no suitable node (scheduling constraints not satisfied on 3 nodes)",
    )
    assert reasons(SERVICE, [task("preparing")]) == ("a task is preparing: its image is fetched",)
    (ended,) = reasons(SERVICE, [task("complete")])
    assert ended.endswith("ended without an error, or unhealthy; Swarm starts it again after a while")
    assert len(reasons(SERVICE, [task("failed", str(number)) for number in range(9)])) == 3
    none = {"Spec": {"Name": "web", "Mode": {"Replicated": {"Replicas": 0}}}}
    assert reasons(none, []) == ("it is scaled to 0 tasks: meshlb service scale web=1",)
    assert reasons({"Spec": {"Name": "web", "Mode": {"Global": {}}}}, []) == ()


def test_the_last_word_of_a_health_check() -> None:
    log = [{"ExitCode": 0, "Output": ""}, {"ExitCode": 22, "Output": "curl: (22)\n \x1b[31m 503\n"}]
    state = {"Health": {"Status": "unhealthy", "Log": log}}
    assert unhealthy({"Name": "/web.1.abc", "State": state}) == (
        "web.1.abc, here, was unhealthy: its check ended with 22 and said: curl: (22) \\x1b[31m 503"
    )
    assert unhealthy({"State": {"Health": {"Status": "healthy"}}}) == ""
    assert unhealthy({"State": {"Status": "exited"}}) == ""
    assert "ended with nothing" in unhealthy({"State": {"Health": {"Status": "unhealthy", "Log": None}}})


def row(state: str = "up", active: str = "2") -> dict[str, str]:
    return {
        "Backend": "10.0.0.1:8000",
        "Service": "web",
        "Task": "web.1",
        "Node": "node1",
        "State": state,
        "Active": active,
        "Failed": "1",
    }


def test_a_backend_that_answers() -> None:
    found = backend(row(), Tried(Attempt(0.0012)))
    assert (found.good, found.advice) == (True, "")
    assert found.text == (
        "backend 10.0.0.1:8000 (web.1 on node1) is up, 2 connections, 1 failed; it answers in 1.2 ms"
    )


@pytest.mark.parametrize(
    ("tried", "advice"),
    [
        (Tried(Attempt(0.1, REFUSED)), "nothing in the task listens on port 8000, or only on its 127.0.0.1"),
        (Tried(Attempt(3, "no answer in 3 s"), True), "its kernel answers, port 8000 does not"),
        (Tried(Attempt(3, "no answer in 3 s"), False), "packets between here and node1 are lost"),
        (Tried(Attempt(3, "No route to host"), False), "packets between here and node1 are lost"),
        (Tried(Attempt(3, "no answer in 3 s")), "look at the task: does it listen? Is 4789/udp open"),
        (Tried(Attempt(0, "reset at once")), "the server in the task ends it: `docker service logs web`"),
    ],
)
def test_a_backend_that_does_not_answer(tried: Tried, advice: str) -> None:
    found = backend(row(), tried)
    assert (found.good, found.advice.startswith(advice)) == (False, True), found.advice


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("suspected", "its node has fallen silent"),
        ("draining", "it is about to end, or its health check fails: `docker service ps web` tells"),
        ("drained", "an operator has asked for that: `meshlb undrain web.1` takes it back"),
        ("paused", "an operator has asked for that"),
        ("down", "it has ended"),
        ("aside", "it failed several times in a row"),
        ("up", ""),
    ],
)
def test_a_state_is_explained(state: str, advice: str) -> None:
    for tried in (None, Tried(Attempt(0.001))):
        found = backend(row(state), tried)
        assert found.good is (True if state == "up" else None)
        assert found.advice.startswith(advice)


def test_not_all_of_many_are_tried() -> None:
    many = [row()] * (MOST_TRIED + 4)
    *_, last = reach(many, [None] * MOST_TRIED)
    assert last.text == "… and 4 more, not tried"


@pytest.mark.parametrize(
    ("tried", "here", "says"),
    [
        (Attempt(0.002), True, "is accepted in 2.0 ms"),
        (Attempt(0.1, REFUSED), True, "is an agent running"),
        (Attempt(0.1, "reset at once"), True, "no backend answered"),
        (Attempt(0.1, "closed at once"), True, "a backend closed it at once"),
        (Attempt(3, "no answer in 3 s"), True, "a firewall on this node"),
        (Attempt(3, "no answer in 3 s"), False, "is it up? Is there a firewall, there or between?"),
    ],
)
def test_how_the_connection_itself_went(tried: Attempt, here: bool, says: str) -> None:
    found = connection("192.0.2.1", 80, tried, here)
    assert (found.good, says in f"{found.text} {found.advice}") == (not tried.error, True)


def test_another_machine() -> None:
    up, dead, unknown = (stranger(f"192.0.2.{number}", STATUS) for number in (1, 2, 9))
    assert (up.good, "192.0.2.1 is node1, another node" in up.text) == (None, True)
    assert (dead.good, dead.text) == (False, "192.0.2.2 is node2, a node that has fallen silent")
    assert (unknown.good, "is another machine" in unknown.text) == (None, True)


def test_nodes_that_are_silent_are_named() -> None:
    (found,) = silent(STATUS)
    assert (found.good, found.text.startswith("node node2 has fallen silent")) == (None, True)
    assert list(silent(STATUS, "192.0.2.2")) == []


def chain(name: str, policy: str, hook: str | None = "input") -> dict[str, Any]:
    found = {"family": "ip", "table": "filter", "name": name, "policy": policy}
    return {"chain": found | ({"hook": hook} if hook else {})}


def rule(verdict: str, right: Any, protocol: str = "tcp", table: str = "filter") -> dict[str, Any]:
    left = {"payload": {"protocol": protocol, "field": "dport"}}
    match = {"match": {"op": "==", "left": left, "right": right}}
    expr = [match, {"counter": {"packets": 0, "bytes": 0}}, {verdict: None}]
    return {"rule": {"family": "ip", "table": table, "chain": "INPUT", "expr": expr}}


@pytest.mark.parametrize(
    "right", [80, {"set": [22, 80]}, {"range": [1, 100]}, {"set": [{"range": [79, 81]}]}]
)
def test_a_rule_of_the_firewall_that_drops_the_port(right: Any) -> None:
    rules = [chain("INPUT", "accept"), rule("drop", right)]
    (found,) = firewall.findings(rules, 80, "tcp")
    assert found.good is False
    assert found.text == "a rule of this node's firewall drops 80/tcp (table ip filter, chain INPUT)"
    assert list(firewall.findings(rules, 443, "tcp")) == []
    assert list(firewall.findings(rules, 80, "udp")) == []


def refusal(*before: dict[str, Any]) -> dict[str, Any]:
    expr = [*before, {"counter": {"packets": 0}}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]
    return {"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "expr": expr}}


@pytest.mark.parametrize(
    "rules", [[chain("INPUT", "drop")], [chain("INPUT", "accept"), rule("accept", 22), refusal()]]
)
def test_a_firewall_that_is_closed(rules: list[dict[str, Any]]) -> None:
    (found,) = firewall.closed(rules)
    assert (found.good, "README" in found.advice) == (None, True)
    assert found.text.endswith("keeps out what no rule of it lets in (table ip filter, chain INPUT)")


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [chain("INPUT", "accept"), rule("drop", 25)],
        [chain("INPUT", "accept"), refusal({"xt": {"type": "match", "name": "conntrack"}})],
        [chain("FORWARD", "drop", hook="forward")],
    ],
)
def test_a_firewall_that_is_open(rules: list[dict[str, Any]]) -> None:
    assert list(firewall.closed(rules)) == []


def test_a_firewall_that_drops_what_no_rule_accepts() -> None:
    (found,) = firewall.findings([chain("INPUT", "drop"), rule("accept", 22)], 80, "tcp")
    assert found.good is None
    assert "drops what no rule accepts, and none names 80/tcp" in found.text
    assert list(firewall.findings([chain("INPUT", "drop"), rule("accept", 80)], 80, "tcp")) == []
    assert list(firewall.findings([chain("FORWARD", "drop", "forward")], 80, "tcp")) == []


@pytest.mark.parametrize(
    "strange",
    [
        {"rule": {}},
        {"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "expr": ["x", {"match": 1}]}},
        {"metainfo": {}},
        rule("drop", "@ports"),
        rule("drop", {"range": ["a", "b"]}),
        rule("drop", 80, table="other"),
    ],
)
def test_rules_that_say_nothing_to_us(strange: dict[str, Any]) -> None:
    assert list(firewall.findings([chain("INPUT", "accept"), strange], 80, "tcp")) == []
