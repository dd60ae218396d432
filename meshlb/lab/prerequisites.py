"""What a lab needs of this machine, and what to say where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess

from meshlb.errors import LabError
from meshlb.lab import cgroups
from meshlb.lab.image import busybox

PACKAGES = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "iptables": "iptables",
    "ip": "iproute2",
    "nft": "nftables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}
_NAMESPACES = ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"]
_LINKS = """
set -e
ip link add name bridge0 type bridge
ip link add name veth0 type veth peer name veth1
ip link add name vxlan0 type vxlan id 1 dstport 4789
"""


def check() -> None:
    """LabError with one sentence on the first thing that is missing, and the command that mends it."""
    check_root()
    missing = sorted({package for command, package in PACKAGES.items() if not shutil.which(command)})
    if missing:
        raise LabError(f"the lab needs more packages; install them with: apt-get install {' '.join(missing)}")
    busybox()
    hierarchies = cgroups.hierarchies()
    if not hierarchies or not all(os.access(hierarchy, os.W_OK) for hierarchy in hierarchies):
        raise LabError("control groups cannot be made here (in a container it must be --privileged)")
    _try([*_NAMESPACES, "true"], "namespaces cannot be made here (in a container it must be --privileged)")
    _try(
        [*_NAMESPACES, "sh", "-c", _LINKS], "this kernel lacks bridge, veth or vxlan links, which Swarm needs"
    )


def check_root() -> None:
    """LabError for anyone but root."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and starts dockerds: run it as root (sudo)")


def why_not() -> str:
    """Why no lab can run here; empty when it can."""
    try:
        check()
    except LabError as error:
        return str(error)
    return ""


def _try(command: list[str], problem: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{problem}: {done.stderr.strip() or f'exit status {done.returncode}'}")
