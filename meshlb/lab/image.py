"""The lab's own image, made without a registry: `meshlb/whoami`, busybox with a web and an echo server.

Port 8000 answers HTTP; the first line is the container's host name. Port 9000 sends back what it is
sent (over UDP after the host name and a new line). Environment: PORT, ECHO_PORT, START_DELAY (seconds until
it listens), STOP_DELAY (seconds that it serves on after SIGTERM; then it answers those whom it has accepted,
and exits), NODE and TASK (said in the answer), GREET (set: over TCP, too, an echo begins with the host name).
The server is whoami.c where a C compiler is at hand; elsewhere busybox's httpd and nc, which are enough to
look at but queue few connections, cut them at SIGTERM and neither greet nor answer UDP.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from meshlb.errors import LabError
from meshlb.lab.api import Engine

REPOSITORY = "meshlb/whoami"
TAG = "latest"
IMAGE = f"{REPOSITORY}:{TAG}"
APPLETS = ("sh", "cat", "sleep", "httpd", "nc", "wget", "ip", "ps", "kill", "hostname", "env", "ls", "mkdir")

SOURCE = Path(__file__).with_name("whoami.c")

WHOAMI = """\
#!/bin/sh
if [ -x /bin/server ]; then exec server; fi
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


def server() -> bytes:
    """whoami.c, compiled; empty where that cannot be done, and busybox must do."""
    with tempfile.TemporaryDirectory() as scratch:
        binary = Path(scratch) / "server"
        command = ["cc", "-static", "-Os", "-s", "-o", str(binary), str(SOURCE)]
        with suppress(OSError):  # no compiler
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return binary.read_bytes()
    return b""


def archive() -> bytes:
    """The image's root file system, as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in ("bin", "tmp", "www", "etc", "proc", "sys", "dev"):
            add(tar, directory, kind=tarfile.DIRTYPE, mode=0o1777 if directory == "tmp" else 0o755)
        add(tar, "bin/busybox", busybox().read_bytes())
        add(tar, "bin/whoami", WHOAMI.encode())
        if program := server():
            add(tar, "bin/server", program)
        for applet in APPLETS:
            add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
    return buffer.getvalue()


def add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o755,
    link: str = "",
) -> None:
    """A file, a directory or a link in an image's root file system."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname, entry.size = kind, mode, link, len(data)
    tar.addfile(entry, io.BytesIO(data))


def ensure(engines: Sequence[Engine]) -> None:
    """Import the image where it is missing."""
    lacking = [engine for engine in engines if not _present(engine)]
    tar = archive() if lacking else b""
    for engine in lacking:
        _load(engine, tar)


def _present(engine: Engine) -> bool:
    with suppress(LabError):
        engine.get(f"/images/{IMAGE}/json")
        return True
    return False


def _load(engine: Engine, tar: bytes) -> None:
    changes = ['CMD ["/bin/whoami"]', "ENV PATH=/bin", "EXPOSE 8000 9000"]
    load(engine, REPOSITORY, tar, changes)


def load(engine: Engine, repository: str, tar: bytes, changes: Sequence[str], tag: str = TAG) -> None:
    """Make an image of a root file system, with lines of a Dockerfile. LabError where the engine refuses."""
    answer = engine.post("/images/create", tar, fromSrc="-", repo=repository, tag=tag, changes=list(changes))
    if "errorDetail" in str(answer):
        raise LabError(f"the image {repository}:{tag} could not be imported: {answer}")
