"""The first process of the booted machine: an agent with a static file, backends, clients.

It talks to whoever booted it over the serial console: lines that begin with MARK.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

MARK = "meshlb-boot: "
MODULES = ("virtio_mmio", "failover", "net_failover", "virtio_net")
ADDRESS, PUBLISHED, ENDS, STATUS = "10.0.2.15", 8080, 8081, 9946
NAMES = (b"one", b"two", b"six")
CONNECTIONS, BULK = 300, 32 << 20
FINIT_MODULE, POWER_OFF = 379, 0x4321FEDC  # the numbers of arm
PATIENCE = 300.0
DESCRIPTORS = 65_536  # the kernel gives 4,096; meshlb-agent.service allows more
CONFIG = Path("/tmp/mesh.toml")
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": "/opt/meshlb:/opt/site",
    "HOME": "/root",
}
libc = ctypes.CDLL(None, use_errno=True)


def say(kind: str, **words: Any) -> None:
    print(f"{MARK}{json.dumps({'kind': kind, **words})}", flush=True)


def mount() -> None:
    kinds = (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"))
    for kind, where in kinds:
        Path(where).mkdir(exist_ok=True)
        if libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None) and kind != "devtmpfs":
            raise OSError(ctypes.get_errno(), f"cannot mount {where}")


def bring_up_network() -> None:
    for name in MODULES:
        with Path(f"/opt/modules/{name}.ko").open("rb") as file:
            if libc.syscall(FINIT_MODULE, file.fileno(), b"", 0):
                raise OSError(ctypes.get_errno(), f"cannot load {name}")
    end = time.monotonic() + PATIENCE
    while not Path("/sys/class/net/eth0").exists() and time.monotonic() < end:
        time.sleep(0.1)
    for line in ("link set lo up", "link set eth0 up", f"address add {ADDRESS}/24 dev eth0"):
        subprocess.run(["ip", *line.split()], check=True, env=ENVIRONMENT)


def serve(connection: socket.socket, name: bytes) -> None:
    """Says its name, or a lot when asked for bulk, and closes."""
    with connection:
        asked = connection.recv(64)
        if asked == b"bulk":
            connection.sendall(bytes(range(256)) * (BULK // 256))
        else:
            connection.sendall(name)


def accept(listener: socket.socket, name: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, name), daemon=True).start()


def start_backends() -> list[int]:
    ports = []
    for name in NAMES:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        threading.Thread(target=accept, args=(listener, name), daemon=True).start()
        ports.append(int(listener.getsockname()[1]))
    return ports


def start_agent(ports: list[int]) -> subprocess.Popen[bytes]:
    backends = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    CONFIG.write_text(f'[[port]]\npublished = {PUBLISHED}\nservice = "web"\nbackends = [{backends}]\n')
    command = [sys.executable, "-m", "meshlb.agent", "--config", str(CONFIG), "--takeover", "never"]
    command += ["--http", f"0.0.0.0:{STATUS}", "--socket", "/tmp/agent.sock", "--state-dir", "off"]
    return subprocess.Popen(command, env=ENVIRONMENT, cwd="/")


def ask(words: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", PUBLISHED), PATIENCE) as client:
        client.sendall(words)
        answer = bytearray()
        while data := client.recv(1 << 16):
            answer += data
        return bytes(answer)


def await_agent() -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            assert ask(b"who") in NAMES
            return
        except (OSError, AssertionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def traffic() -> dict[str, Any]:
    """Short connections, each answered, and a large answer that arrives as it was sent."""
    began = time.monotonic()
    answers = Counter(ask(b"who").decode() for _ in range(CONNECTIONS))
    seconds = time.monotonic() - began
    whole = hashlib.sha256(bytes(range(256)) * (BULK // 256)).digest()
    return {
        "connections": CONNECTIONS,
        "seconds": round(seconds, 1),
        "answers": dict(answers),
        "bulk bytes": BULK,
        "bulk arrived whole": hashlib.sha256(ask(b"bulk")).digest() == whole,
    }


def status() -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{STATUS}/status", timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def rehearse() -> None:
    """Serves until the machine that booted us has had its turn, then ends as a user would have it."""
    agent = start_agent(start_backends())
    await_agent()
    say("inside", **traffic())
    with socket.create_server((ADDRESS, ENDS)) as door:
        say("ready")
        door.accept()[0].close()
    say("status", status=status())
    agent.send_signal(signal.SIGTERM)
    say("end", code=agent.wait(PATIENCE))


def main() -> None:
    os.environ.update(ENVIRONMENT)
    mount()
    bring_up_network()
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    say("machine", machine=platform.machine(), kernel=platform.release(), cores=os.cpu_count())
    words = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split())
    if "tests" in words:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words["tests"].split(",")],
            check=False,
            env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/opt/meshlb",
        )
        say("end", code=run.returncode)
    else:
        rehearse()


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # the machine has to go off, whatever happens
        say("failed", error=repr(error))
        raise
    finally:
        sys.stdout.flush()
        time.sleep(1)
        libc.reboot(POWER_OFF)
