"""The lab's addresses and names, without a network."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from meshlb.lab import LabError, network


@pytest.fixture(autouse=True)
def routes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `ip route` tells of this machine."""
    routes = [
        '{"dst":"default"}',
        '{"dst":"128.0.0.0/1"}',
        '{"type":"local","dst":"192.0.2.2"}',
        '{"dst":"192.0.2.0/24"}',
    ]
    monkeypatch.setattr(network, "_run", lambda command: f"[{','.join(routes)}]")
    return routes


def test_the_first_free_subnet_is_chosen(routes: list[str]) -> None:
    assert str(network.choose_subnet([])) == "198.18.0.0/24"
    routes.append('{"dst":"198.18.0.0/23"}')
    assert str(network.choose_subnet([IPv4Network("198.18.2.0/24")])) == "198.18.3.0/24"


def test_no_free_subnet_is_said(routes: list[str]) -> None:
    routes.append('{"dst":"198.16.0.0/12"}')
    with pytest.raises(LabError, match=r"no free /24 in 198\.18\.0\.0/15; give one with --subnet"):
        network.choose_subnet([])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("198.18.7", '"198.18.7" is not an IPv4 network such as 198.18.7.0/24'),
        ("198.18.7.1/24", '"198.18.7.1/24" is not an IPv4 network'),
        ("fd00::/64", '"fd00::/64" is not an IPv4 network'),
        ("198.18.0.0/16", "198.18.0.0/16 is not a /24"),
        ("192.0.2.0/24", "192.0.2.0/24 overlaps 192.0.2.2/32, which this machine uses; give another"),
        ("198.18.9.0/24", "198.18.9.0/24 overlaps 198.18.9.0/24"),
    ],
)
def test_a_subnet_that_cannot_be_used_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(LabError) as caught:
        network.check_subnet(text, [IPv4Network("198.18.9.0/24")])
    assert sentence in str(caught.value)


def test_a_free_subnet_is_taken() -> None:
    assert network.check_subnet("203.0.113.0/24", []) == IPv4Network("203.0.113.0/24")


def test_nodes_have_their_numbers_in_their_addresses() -> None:
    subnet = IPv4Network("198.18.5.0/24")
    assert network.node_address(subnet, 1) == "198.18.5.11"
    most = network.LAST_NODE - network.FIRST_NODE + 1
    assert network.node_address(subnet, most) == "198.18.5.250"


def test_a_link_name_fits_the_kernel_and_tells_labs_apart() -> None:
    assert network.host_link("meshlb") == "mesh-meshlb"
    long = [network.host_link(f"a-lab-with-a-long-name-{k}") for k in range(50)]
    assert len(set(long)) == 50
    assert all(len(name) <= 15 for name in long)
