"""Debian's nginx in an image made here: it answers and logs who it sees, and knows nothing of the mesh."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from meshlb.lab import Lab
from meshlb.lab.image import add, load

REPOSITORY = "meshlb/nginx"
PORT = 8000
_CONFIGURATION = f"""\
daemon off; user root; pid /run/nginx.pid; error_log stderr; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log /dev/stdout combined;
  server {{ listen {PORT} backlog=4096; location / {{ return 200 "$remote_addr $hostname\\n"; }} }}
}}
"""


def program() -> str | None:
    """Where this machine's nginx is."""
    return shutil.which("nginx", path="/usr/sbin:/usr/bin")


def _libraries(path: str) -> list[str]:
    said = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
    return re.findall(r"(/\S+) \(0x", said)


def _archive(path: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in ("etc", "tmp", "run", "proc", "sys", "dev", "var/log/nginx", "var/lib/nginx"):
            add(tar, directory, kind=tarfile.DIRTYPE)
        add(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/false\n", mode=0o644)
        add(tar, "etc/group", b"root:x:0:\n", mode=0o644)
        add(tar, "etc/nginx.conf", _CONFIGURATION.encode(), mode=0o644)
        for file in (path, *_libraries(path)):
            add(tar, file.lstrip("/"), Path(file).resolve().read_bytes())
    return buffer.getvalue()


def ensure(lab: Lab, path: str) -> str:
    """Make it known to all engines of a lab; its name."""
    tar = _archive(path)
    for node in lab.nodes:
        load(node.engine, REPOSITORY, tar, [f'CMD ["{path}", "-c", "/etc/nginx.conf"]'])
    return f"{REPOSITORY}:latest"
