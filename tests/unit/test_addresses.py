"""A node's own addresses, and which of them a port is served on."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess

import pytest

from meshlb.ports.addresses import chosen, own_addresses

OWN = ("10.0.0.5", "10.0.1.5", "192.0.2.1", "fd00::5", "2001:db8::1", "127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("networks", "addresses"),
    [
        (["10.0.0.0/8"], ["10.0.0.5", "10.0.1.5"]),
        (["10.0.0.0/24", "fd00::/8"], ["10.0.0.5", "fd00::5"]),
        (["10.0.0.0/24", "10.0.0.5", "10.0.0.5/32"], ["10.0.0.5"]),
        (["198.51.100.7", "2001:db8::7"], ["198.51.100.7", "2001:db8::7"]),  # they may come at any time
        (["172.16.0.0/12"], []),
        (["0.0.0.0/0"], ["0.0.0.0"]),
        (["0.0.0.0/0", "10.0.0.5", "fd00::/8"], ["0.0.0.0", "fd00::5"]),
        (["::/0", "fd00::5", "10.0.0.0/24"], ["10.0.0.5", "::"]),
        (["0.0.0.0/0", "::/0"], ["0.0.0.0", "::"]),
    ],
)
def test_which_addresses(networks: list[str], addresses: list[str]) -> None:
    assert chosen(networks, OWN) == tuple(sorted(addresses))


def test_without_ipv6_in_the_kernel_ipv4_is_chosen() -> None:
    assert chosen(["fd00::5", "::/0", "10.0.0.5"], OWN, ipv6=False) == ("10.0.0.5",)


@pytest.mark.skipif(not shutil.which("ip"), reason="needs ip of iproute2")
def test_own_addresses_are_those_that_ip_shows() -> None:
    shown = json.loads(subprocess.run(["ip", "-j", "address"], capture_output=True, check=True).stdout)
    infos = [info for link in shown for info in link["addr_info"] if info["scope"] != "link"]
    assert own_addresses() == {str(ipaddress.ip_address(info["local"])) for info in infos}
