"""The lab's own image, made without a registry: `meshlb/whoami`, busybox with a web and an echo server."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

from meshlb.errors import LabError
from meshlb.lab.api import Engine

REPOSITORY = "meshlb/whoami"
TAG = "latest"
IMAGE = f"{REPOSITORY}:{TAG}"
APPLETS = ("sh", "cat", "sleep", "httpd", "nc", "wget", "ip", "ps", "kill", "hostname", "env", "ls", "mkdir")

WHOAMI = """\
#!/bin/sh
# Answers on port 8000 (HTTP) with the container's host name, on port 9000 (TCP) with what it is sent.
mkdir -p /www
{
  hostname
  [ -z "$NODE" ] || echo "node: $NODE"
  [ -z "$TASK" ] || echo "task: $TASK"
} > /www/index.html
# Process 1 has no default signal actions: without this a stop would take the whole grace period.
trap 'sleep "${STOP_DELAY:-0}"; exit 0' TERM INT
sleep "${START_DELAY:-0}" & wait $!
nc -ll -p "${ECHO_PORT:-9000}" -e cat &
httpd -f -p "${PORT:-8000}" -h /www &
wait $!
"""


def busybox() -> Path:
    """The static busybox of this machine; LabError where there is none."""
    found = shutil.which("busybox")
    if found is None:
        raise LabError("busybox is missing; install it with: apt-get install busybox-static")
    path = Path(found).resolve()
    if (
        b"/ld-" in path.read_bytes()[:4096]
    ):  # the interpreter's path stands near the start of a dynamic ELF file
        raise LabError(
            f"{path} is dynamically linked; install busybox-static: apt-get install busybox-static"
        )
    return path


def archive() -> bytes:
    """The image's root file system, as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in ("bin", "tmp", "www", "etc", "proc", "sys", "dev"):
            _add(tar, directory, kind=tarfile.DIRTYPE, mode=0o1777 if directory == "tmp" else 0o755)
        _add(tar, "bin/busybox", busybox().read_bytes())
        _add(tar, "bin/whoami", WHOAMI.encode())
        for applet in APPLETS:
            _add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
    return buffer.getvalue()


def _add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o755,
    link: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname, entry.size = kind, mode, link, len(data)
    tar.addfile(entry, io.BytesIO(data))


def load(engine: Engine, tar: bytes) -> None:
    """Import the image into one engine."""
    changes = ['CMD ["/bin/whoami"]', "ENV PATH=/bin", "EXPOSE 8000 9000"]
    answer = engine.post("/images/create", tar, fromSrc="-", repo=REPOSITORY, tag=TAG, changes=changes)
    if "errorDetail" in str(answer):
        raise LabError(f"the image {IMAGE} could not be imported: {answer}")
