"""The lab's wires: a bridge in a namespace of its own, a link to each node and one to this machine.

As in moby's L3Segment the bridge has its own namespace, so that neither this machine's firewall nor
br_netfilter's FORWARD policy touches what nodes say to each other. Address .1 is this machine, .10+K is
node K. There is no route out.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from meshlb.errors import LabError
from meshlb.lab.process import Init

# RFC 2544's range for tests between networks: no home or office uses it, and neither Docker's own pools
# (172.17-31, 192.168) nor Swarm's (10.0.0.0/8) ever grow into it.
RANGE = ipaddress.IPv4Network("198.18.0.0/15")
FIRST_NODE = 11
LAST_NODE = 250
_NAME_LENGTH = 15  # IFNAMSIZ, without the end mark


def choose_subnet(taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first /24 of the range that overlaps nothing this machine knows, nor another lab."""
    used = [*taken, *_local_networks()]
    for subnet in RANGE.subnets(new_prefix=24):
        if not any(subnet.overlaps(network) for network in used):
            return subnet
    raise LabError(f"no free /24 in {RANGE}; give one with --subnet")


def check_subnet(text: str, taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The subnet that the user asked for, when it can be used."""
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError:
        raise LabError(f'--subnet: "{text}" is not an IPv4 network such as 198.18.7.0/24') from None
    if subnet.prefixlen != 24:
        raise LabError(f"--subnet: {subnet} is not a /24")
    for network in [*taken, *_local_networks()]:
        if subnet.overlaps(network):
            raise LabError(f"--subnet: {subnet} overlaps {network}, which this machine uses; give another")
    return subnet


def node_address(subnet: ipaddress.IPv4Network, number: int) -> str:
    """The address of node 1, 2, …"""
    return str(subnet[FIRST_NODE + number - 1])


def _local_networks() -> list[ipaddress.IPv4Network]:
    routes = json.loads(_run(["ip", "-4", "-json", "route", "show", "table", "all"]) or "[]")
    texts = [route.get("dst", "default") for route in routes]
    networks = [ipaddress.IPv4Network(text, strict=False) for text in texts if text != "default"]
    # Halves of the whole address space are what VPNs plant instead of a default route.
    return [network for network in networks if network.prefixlen > 1]


def host_link(lab: str) -> str:
    """The name of this machine's end of the lab's wire."""
    name = f"mesh-{lab}"
    return name if len(name) <= _NAME_LENGTH else f"mesh-{zlib.crc32(lab.encode()):08x}"


def build_switch(switch: Init, subnet: ipaddress.IPv4Network) -> None:
    """Make the bridge, and this machine's link to it."""
    link = host_link(switch.lab)
    _ip(
        f"link add {link} type veth peer name host netns {switch.pid}",
        f"link set {link} alias {_alias(switch.lab)}",
        f"address add {subnet[1]}/24 dev {link}",
        f"link set {link} up",
    )
    _ip("link add br0 type bridge", "link set br0 up", "link set host master br0 up", inside=switch)


def remove_host_link(lab: str) -> None:
    """Remove our end now: the kernel would do so too, but only some time after the namespace is gone."""
    link = host_link(lab)
    found = subprocess.run(["ip", "-json", "link", "show", link], capture_output=True, text=True, check=False)
    if found.returncode == 0 and json.loads(found.stdout)[0].get("ifalias") == _alias(lab):
        # It may vanish by itself between the two commands.
        subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)


def _alias(lab: str) -> str:
    return f"meshlb-lab:{lab}"


def plug(switch: Init, node: Init, subnet: ipaddress.IPv4Network, address: str) -> None:
    """Connect a node to the switch, with its address."""
    unplug(switch, node.node)  # the kernel takes its time to remove the wire of a node that died
    _ip(f"link add eth0 netns {node.pid} type veth peer name {node.node} netns {switch.pid}")
    _ip(f"link set {node.node} master br0 up", inside=switch)
    _ip(f"address add {address}/{subnet.prefixlen} dev eth0", "link set eth0 up", inside=node)


def unplug(switch: Init, node: str) -> None:
    """Take the wire away for good, if it is still there."""
    # It may vanish by itself between a look and the deletion: so delete, then look.
    delete = _inside(switch, ["ip", "link", "delete", node])
    done = subprocess.run(delete, capture_output=True, text=True, check=False)
    if done.returncode and node in links(switch):
        raise LabError(f"the link of {node} cannot be removed: {done.stderr.strip()}")


def set_link(switch: Init, node: str, *, up: bool) -> None:
    """Cut the wire at the switch, or mend it: the node loses its carrier, as when a cable is pulled."""
    _ip(f"link set {node} {'up' if up else 'down'}", inside=switch)


def links(switch: Init) -> dict[str, bool]:
    """The switch's ports and whether they are up."""
    found: list[dict[str, Any]] = json.loads(_run(_inside(switch, ["ip", "-json", "link", "show"])))
    return {link["ifname"]: "UP" in link["flags"] for link in found}


def _ip(*commands: str, inside: Init | None = None) -> None:
    batch = ["ip", "-batch", "-"]
    _run(_inside(inside, batch) if inside else batch, "\n".join(commands))


def _inside(init: Init, command: Sequence[str]) -> list[str]:
    return ["nsenter", f"--net={init.namespace('net')}", "--", *command]


def _run(command: Sequence[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{text or ' '.join(command)}: {done.stderr.strip() or 'failed'}")
    return done.stdout
