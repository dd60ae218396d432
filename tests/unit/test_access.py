"""Who may come in: networks, and the rate of one source."""

from __future__ import annotations

import ipaddress
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlb._access import RateLimit, contains
from meshlb.route import packed


def address(text: str) -> bytes:
    data = ipaddress.ip_address(text).packed
    return data if len(data) == 16 else bytes(10) + b"\xff\xff" + data


def plain(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """IPv4 as such, where it is written as IPv6."""
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))


@given(st.lists(st.tuples(st.ip_addresses(), st.integers(0, 128)), min_size=1, max_size=8), st.ip_addresses())
def test_networks_hold_what_python_says(
    parts: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]],
    client: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    networks = [ipaddress.ip_network((ip, bits % (ip.max_prefixlen + 1)), strict=False) for ip, bits in parts]
    if client.version == 6 and client.ipv4_mapped:
        return
    meant = [plain(network) for network in networks]
    expected = any(client in network for network in meant if network.version == client.version)
    assert contains(packed(map(str, networks)), address(str(client))) == expected


@pytest.mark.parametrize(
    ("network", "inside"),
    [
        ("::/0", {"::1", "2001:db8::1"}),
        ("::/64", {"::1"}),
        ("::/80", {"::1"}),
        ("::fffe:0:0/95", set()),
        ("0.0.0.0/0", {"127.0.0.1", "10.0.0.1"}),
        ("::ffff:0:0/96", {"127.0.0.1", "10.0.0.1"}),
        ("::ffff:127.0.0.0/104", {"127.0.0.1"}),
        ("::ffff:10.0.0.1/128", {"10.0.0.1"}),
    ],
)
def test_a_network_is_of_one_family(network: str, inside: set[str]) -> None:
    clients = ["127.0.0.1", "10.0.0.1", "::1", "2001:db8::1"]
    assert {client for client in clients if contains(packed([network]), address(client))} == inside


def test_a_source_gets_its_burst_and_then_its_rate() -> None:
    limit, client = RateLimit(10_000, 5), address("192.0.2.1")
    assert [limit.allows(client, 0) for _ in range(7)] == [True] * 5 + [False] * 2
    allowed = sum(limit.allows(client, at) for at in range(0, 1_000_000, 500))
    assert 98 <= allowed <= 100
    assert limit.allows(address("192.0.2.2"), 1_000_000), "another source has its own"


def test_a_customers_ipv6_prefix_is_one_source() -> None:
    limit = RateLimit(1_000_000, 1)
    assert limit.allows(address("2001:db8::1"), 0)
    assert not limit.allows(address("2001:db8::ffff"), 0)
    assert limit.allows(address("2001:db8:0:1::1"), 0)


def test_the_clock_may_wrap() -> None:
    limit, client, late = RateLimit(10_000, 1), address("192.0.2.1"), (1 << 36) - 100
    assert limit.allows(client, late)
    assert not limit.allows(client, late + 200)
    assert limit.allows(client, late + 20_000)


@pytest.mark.parametrize("hours", [1, 5, 9.6, 12, 19, 19.2, 30])
def test_an_idle_source_has_its_burst_again(hours: float) -> None:
    limit, client = RateLimit(1_000_000, 3), address("192.0.2.1")
    assert [limit.allows(client, 7) for _ in range(4)] == [True, True, True, False]
    assert [limit.allows(client, int(hours * 3600e6)) for _ in range(4)] == [True, True, True, False]


def test_a_large_burst_at_a_low_rate() -> None:
    limit, client = RateLimit(3_600_000_000, 60_000), address("192.0.2.1")
    assert all(limit.allows(client, number) for number in range(4))


def test_a_flood_of_sources_takes_no_memory_and_locks_nobody_out() -> None:
    limit = RateLimit(1000, 1)
    for number in range(100_000):
        assert limit.allows(address(str(ipaddress.IPv4Address(0x0A000000 + number))), number * 10)


@pytest.mark.parametrize("threads", [4])
def test_the_rate_is_exact_over_threads(threads: int) -> None:
    limit, client, allowed = RateLimit(1_000_000, 1000), address("192.0.2.1"), []
    workers = [
        threading.Thread(target=lambda: allowed.append(sum(limit.allows(client, 0) for _ in range(1000))))
        for _ in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(allowed) == 1000
