"""The swarm's root certificate: shown, and rotated on all nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshlb.cluster.client import APIClient, request, translating, verb
from meshlb.cluster.swarm import inspect
from meshlb.cluster.swarm_spec import changed

POLL = 0.2  # seconds between two looks at a rotation


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many of the swarm's nodes have a certificate of the new root, and how many trust it alone."""

    certificates: int
    roots: int
    nodes: int


@verb
def show(api: APIClient) -> str:
    """The root certificate in PEM."""
    return str((inspect(api).get("TLSInfo") or {}).get("TrustRoot", ""))


@verb
def rotate(api: APIClient, values: Mapping[str, Any], certificate: str = "", key: str = "") -> None:
    """Begins to replace the root, by the given one or a new one; every node gets a new certificate."""
    swarm = inspect(api)
    spec = changed(swarm["Spec"], values, certificate)
    config = spec.setdefault("CAConfig", {})
    config["ForceRotate"] = config.get("ForceRotate", 0) + 1
    config |= {name: text for name, text in (("SigningCACert", certificate), ("SigningCAKey", key)) if text}
    request(api, "POST", "/swarm/update", body=spec, query={"version": str(swarm["Version"]["Index"])})


def follow(api: APIClient, sleep: Callable[[float], None] = time.sleep) -> Iterator[Rotated]:
    """How far the rotation is, until it is complete."""
    with translating(api):
        while True:
            swarm = inspect(api)
            yield _rotated(swarm, api.nodes())
            if not swarm.get("RootRotationInProgress"):
                return
            sleep(POLL)


def _rotated(swarm: dict[str, Any], nodes: list[dict[str, Any]]) -> Rotated:
    wanted = swarm.get("TLSInfo") or {}
    held = [(node.get("Description") or {}).get("TLSInfo") or {} for node in nodes]
    issuer = ("CertIssuerSubject", "CertIssuerPublicKey")
    certificates = sum(all(one.get(key) == wanted.get(key) for key in issuer) for one in held)
    roots = sum(one.get("TrustRoot") == wanted.get("TrustRoot") for one in held)
    return Rotated(certificates, roots, len(nodes))
