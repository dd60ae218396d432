"""The agent's image in the nodes of a lab, made as a user makes it: scripts/image."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import meshlb
from meshlb.lab import Node
from meshlb.lab.image import load

ROOT = Path(__file__).parents[2]
REPOSITORY = "localhost/meshlb-agent"
IMAGE = f"{REPOSITORY}:{meshlb.__version__}"


def made(folder: Path) -> Path:
    """The image's files; those in MESHLB_IMAGE_ROOT, where somebody has made them before."""
    if given := os.environ.get("MESHLB_IMAGE_ROOT"):
        return Path(given)
    subprocess.run([str(ROOT / "scripts/image"), "--root", str(folder)], check=True)
    return folder


def packed(root: Path) -> bytes:
    """They as a tar, root's."""

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(root, ".", filter=owned)
    return buffer.getvalue()


def bring(node: Node, tar: bytes) -> None:
    """As `docker load` would."""
    lines = (ROOT / "Dockerfile").read_text().partition("\nFROM scratch\n")[2].splitlines()
    changes = [line for line in lines if line and not line.startswith(("#", "COPY"))]
    load(node.engine, REPOSITORY, tar, changes, meshlb.__version__)
