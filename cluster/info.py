"""What a node is, and what it knows of its swarm."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshlb.cluster.client import APIClient, verb

ROOT_CA = "swarm/certificates/swarm-root-ca.crt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The node's place in its swarm. What only managers know is None on a worker.

    `ca_cert_hash` is the SHA-256 of the swarm's root certificate in PEM, as Swarm itself counts it: the third
    part of every join token is this number in base 36. A worker reads it from its own copy of the
    certificate, which takes root; empty where it cannot.
    """

    state: str  # inactive, pending, active, locked or error
    error: str = ""
    node_id: str = ""
    node_address: str = ""
    manager: bool = False
    cluster_id: str | None = None
    managers: int | None = None
    nodes: int | None = None
    ca_cert_hash: str = ""
    manager_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """The node, its machine and its engine; `whole` is all that the engine says, in its own names."""

    swarm: Membership
    server_version: str
    kernel: str
    operating_system: str
    os_type: str
    architecture: str
    cpus: int
    memory: int
    name: str
    root_dir: str
    whole: dict[str, Any] = field(default_factory=dict, repr=False)


@verb
def info(api: APIClient) -> Info:
    """All that this node can say of itself and its swarm."""
    found = api.info()
    root = str(found.get("DockerRootDir", ""))
    return from_json(found, _certificate(Path(root)))


def from_json(found: dict[str, Any], certificate: bytes = b"") -> Info:
    """The engine's JSON as Info; `certificate` is the root's PEM on this machine (pure)."""
    return Info(
        swarm=_membership(found.get("Swarm") or {}, certificate),
        server_version=str(found.get("ServerVersion", "")),
        kernel=str(found.get("KernelVersion", "")),
        operating_system=str(found.get("OperatingSystem", "")),
        os_type=str(found.get("OSType", "")),
        architecture=str(found.get("Architecture", "")),
        cpus=int(found.get("NCPU", 0)),
        memory=int(found.get("MemTotal", 0)),
        name=str(found.get("Name", "")),
        root_dir=str(found.get("DockerRootDir", "")),
        whole=found,
    )


def _membership(swarm: dict[str, Any], certificate: bytes) -> Membership:
    manager = bool(swarm.get("ControlAvailable"))
    cluster = swarm.get("Cluster") or {}
    root = str((cluster.get("TLSInfo") or {}).get("TrustRoot", "")).encode() or certificate
    active = swarm.get("LocalNodeState") == "active"
    return Membership(
        state=str(swarm.get("LocalNodeState") or "inactive"),
        error=str(swarm.get("Error") or ""),
        node_id=str(swarm.get("NodeID") or ""),
        node_address=str(swarm.get("NodeAddr") or ""),
        manager=manager,
        cluster_id=str(cluster.get("ID", "")) if manager else None,
        managers=int(swarm.get("Managers", 0)) if manager else None,
        nodes=int(swarm.get("Nodes", 0)) if manager else None,
        ca_cert_hash=f"sha256:{hashlib.sha256(root).hexdigest()}" if root and active else "",
        manager_addresses=tuple(sorted(str(peer["Addr"]) for peer in swarm.get("RemoteManagers") or ())),
    )


def _certificate(root: Path) -> bytes:
    """This node's copy of the root certificate; it takes root, on the engine's own machine."""
    try:
        return (root / ROOT_CA).read_bytes()
    except OSError:
        return b""
