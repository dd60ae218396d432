"""What `doctor` says about the ways between nodes and their clocks."""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Any

from agent_process import free_port

from meshlb.cli.between import clocks, containers, datagram, endpoints, gossip, ports, stream


def task(name: str, address: str, host: str) -> dict[str, Any]:
    return {"Name": name, "EndpointIP": address, "Info": {"Host IP": host}}


NETWORK = {
    "Services": {
        "": {
            "Tasks": [
                task("ingress-endpoint", "10.0.0.2", "192.0.2.1"),
                task("ingress-endpoint", "10.0.0.3", "192.0.2.2"),
                task("ingress-endpoint", "10.0.0.4", "192.0.2.3"),
                {"Name": "ingress-endpoint", "EndpointIP": "10.0.0.5", "Info": None},
            ]
        },
        "web": {"Tasks": [task("web.1.abc", "10.0.0.9", "192.0.2.2")]},
        "none": {"Tasks": None},
    }
}
ENDPOINTS = {"192.0.2.1": "10.0.0.2", "192.0.2.2": "10.0.0.3", "192.0.2.3": "10.0.0.4"}


def test_every_node_has_an_address_in_the_ingress_network() -> None:
    assert endpoints(NETWORK) == ENDPOINTS
    assert endpoints({}) == {}


def test_an_echo_over_the_overlay_tells_whether_containers_reach_each_other() -> None:
    asked: list[str] = []

    def ask(addresses: Collection[str]) -> set[str]:
        asked.extend(addresses)
        return {"10.0.0.3"}

    good, bad = containers("192.0.2.1", ENDPOINTS, 4789, ask)
    assert asked == ["10.0.0.3", "10.0.0.4"]
    assert (good.good, good.advice) == (True, "")
    assert good.text == "192.0.2.2 4789/udp (containers' traffic): an echo over the ingress network answers"
    assert (bad.good, bad.text.startswith("192.0.2.3 4789/udp")) == (False, True)
    assert bad.advice == "open 4789/udp between the nodes, both ways; is Docker running there?"


def test_who_may_not_ask_is_told_so() -> None:
    (only,) = containers("192.0.2.1", ENDPOINTS, 4789, lambda _: None)
    assert (only.good, only.advice) == (None, "sudo meshlb doctor")
    assert list(containers("192.0.2.1", {"192.0.2.1": "10.0.0.2"}, 4789, lambda _: None)) == []


def test_nodes_that_gossip_does_not_show() -> None:
    def node(address: str, state: str = "ready") -> dict[str, Any]:
        return {"Status": {"State": state, "Addr": address}}

    nodes = [node("192.0.2.1"), node("192.0.2.7"), node("192.0.2.8", "down"), {}]
    unheard, down = gossip(nodes, ENDPOINTS)
    assert (unheard.good, "192.0.2.7" in unheard.text, "7946/udp" in unheard.advice) == (False, True, True)
    assert (down.good, down.text) == (False, "node 192.0.2.8 is down, as managers have it")


def test_a_port_of_udp_that_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert datagram("127.0.0.1", sock.getsockname()[1], 0.05).good
    refused = datagram("127.0.0.1", free_port())
    assert (refused.good, refused.advice) == (False, "is Docker running there?")
    assert refused.text.endswith("/udp (gossip): Connection refused")


def test_clocks() -> None:
    assert list(clocks({})) == []
    (fine,) = clocks({"192.0.2.1": 0, "192.0.2.2": -2})
    assert (fine.good, fine.text) == (True, "clocks of other nodes that are as ours, to within 5 s: 2 of 2")
    before, behind = clocks({"192.0.2.1": 7, "192.0.2.2": -60, "192.0.2.3": 1})
    assert (before.good, before.text) == (False, "the clock of 192.0.2.1 is 7 s ahead of ours")
    assert (behind.text, behind.advice) == (
        "the clock of 192.0.2.2 is 60 s behind ours",
        "run an NTP client on both",
    )


def test_ports_of_all_nodes_are_tried() -> None:
    found = [finding.text for finding in ports({"127.0.0.2"}, {"127.0.0.2", "127.0.0.3"})]
    assert len(found) == 7
    assert found == sorted(found)
    assert [text for text in found if " 2377/tcp (managers): " in text] == [found[0]]
    assert list(ports((), ())) == []


def test_a_port_that_answers_and_one_that_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        good = stream("127.0.0.1", listener.getsockname()[1], "gossip")
        assert (good.good, good.text.endswith("(gossip): answers")) == (True, True)
    bad = stream("127.0.0.1", free_port(), "gossip")
    assert (bad.good, bad.advice) == (False, "is Docker running there, or does a firewall refuse?")
