"""A certificate authority like Swarm's, made with the openssl command, and nodes signed by it."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

KEY_HEADERS = b"kek-version: 0\nraft-dek: EiAdzcovFTwVf5EFjzv3Hly9fw2vNYD0LrS9mX5EnrToLg==\n\n"


def identifier() -> str:
    """A random id as Swarm's: 25 characters."""
    return "".join(secrets.choice("0123456789abcdefghijklmnopqrstuvwxyz") for _ in range(25))


class SwarmCA:
    """One Swarm's authority. `root()` makes a node's Docker data directory as Swarm writes it."""

    def __init__(self, place: Path) -> None:
        if not shutil.which("openssl"):
            pytest.skip("needs the openssl command; apt-get install openssl")
        self.place, self.cluster = place, identifier()
        place.mkdir(parents=True, exist_ok=True)
        usage = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        self._request(place / "ca", "/CN=swarm-ca", usage)

    def root(
        self,
        name: str,
        role: str = "swarm-worker",
        *,
        node_id: str = "",
        cluster: str = "",
        names: tuple[str, ...] = (),
        unit: str = "",
    ) -> Path:
        """Docker's data directory of a node with a new certificate; an existing one is renewed."""
        root = self.place / name
        self.issue(root, role, node_id=node_id, cluster=cluster, names=names, unit=unit)
        return root

    def issue(
        self,
        root: Path,
        role: str,
        *,
        node_id: str = "",
        cluster: str = "",
        names: tuple[str, ...] = (),
        unit: str = "",
    ) -> None:
        """Write a certificate, its key with Swarm's headers and the authority below `root`."""
        node_id = node_id or identifier()
        subject = f"/O={cluster or self.cluster}/OU={unit or role}/CN={node_id}"
        alternatives = ",".join(f"DNS:{name}" for name in (names or (role, node_id)))
        usage = [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature,keyEncipherment",
            "extendedKeyUsage=serverAuth,clientAuth",
            f"subjectAltName={alternatives}",
        ]
        new = self.place / f"new-{secrets.token_hex(4)}"
        authority = self.place / "ca"
        self._request(new, subject, usage, ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key"])
        place = root / "swarm" / "certificates"
        place.mkdir(parents=True, exist_ok=True)
        first, rest = Path(f"{new}.key").read_bytes().split(b"\n", 1)
        # Swarm's order: the key first, each file by renaming.
        self.replace(place / "swarm-node.key", first + b"\n" + KEY_HEADERS + rest)
        self.replace(place / "swarm-node.crt", Path(f"{new}.crt").read_bytes())
        self.replace(place / "swarm-root-ca.crt", Path(f"{authority}.crt").read_bytes())

    @staticmethod
    def replace(path: Path, data: bytes) -> None:
        """Write `data` beside `path` and rename it there, as Swarm does."""
        beside = path.with_name(f".{path.name}")
        beside.write_bytes(data)
        beside.rename(path)

    @staticmethod
    def _request(to: Path, subject: str, usage: list[str], signer: list[str] | None = None) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-keyout", f"{to}.key", "-out", f"{to}.crt", "-days", "90", "-subj", subject]
        extensions = [part for each in usage for part in ("-addext", each)]
        # Without a configuration of its own, openssl adds the machine's extensions a second time.
        config = ["-config", "/dev/stdin"]
        subprocess.run(
            [*command, *(signer or []), *extensions, *config],
            input=b"[req]\ndistinguished_name = dn\n[dn]\n",
            check=True,
            capture_output=True,
        )


def certificates(root: Path) -> Path:
    """Where Swarm keeps a node's certificates."""
    return root / "swarm" / "certificates"


def lock(root: Path) -> None:
    """Encrypt the key as Swarm's autolock does."""
    key = certificates(root) / "swarm-node.key"
    first, *_ = key.read_bytes().split(KEY_HEADERS)
    assert first
    body = b"MIHeMEkGCSqGSIb3DQEFDTA8MBsGCSqGSIb3DQEFDDAOBAhImhMZOnUIJwICCAAw\n"
    text = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nkek-version: 16\nraft-dek: CAES\n\n" + body
    SwarmCA.replace(key, text + b"-----END ENCRYPTED PRIVATE KEY-----\n")
