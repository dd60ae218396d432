"""Who holds a port: read from /proc, the real one and a made-up one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from meshlb.ports.holder import Holder, holder_of, listening_inodes

TCP = """\
  sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100
   1: 0100007F:0050 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 20
   2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100
"""
ANY6 = "0" * 32
TCP6 = f"""\
  sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid  timeout inode
   0: {ANY6}:0050 {ANY6}:0000 0A 00000000:00000000 00:00000000 00000000     0        0 444 1
"""


def fake_proc(root: Path, *processes: tuple[int, str, str, int]) -> Path:
    """A /proc with processes: their id, name, command line and the inode of their one socket."""
    (root / "net").mkdir()
    (root / "net/tcp").write_text(TCP)
    for pid, name, command, inode in processes:
        (root / f"{pid}/fd").mkdir(parents=True)
        (root / f"{pid}/comm").write_text(name + "\n")
        (root / f"{pid}/cmdline").write_bytes("".join(word + "\0" for word in command.split()).encode())
        (root / f"{pid}/fd/3").symlink_to(f"socket:[{inode}]")
    (root / "self").mkdir()
    (root / "99").mkdir()  # has ended while we look
    return root


def test_only_listening_sockets_count(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path)
    assert listening_inodes(80, proc=proc) == {111}
    (proc / "net/tcp6").write_text(TCP6)
    assert listening_inodes(80, proc=proc) == {111, 444}
    assert listening_inodes(81, proc=proc) == set()


def test_the_process_that_has_the_socket_is_the_holder(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, (5, "curl", "curl x", 222), (6, "nginx", "nginx -g x", 111))
    assert holder_of(80, proc=proc) == Holder(6, "nginx", ("nginx", "-g", "x"))
    assert str(holder_of(80, proc=proc)) == "nginx (process 6)"


def test_a_socket_of_a_hidden_process_has_no_holder(tmp_path: Path) -> None:
    assert holder_of(80, proc=fake_proc(tmp_path, (5, "curl", "curl x", 222))) is None


def test_dockers_processes_are_known(tmp_path: Path) -> None:
    command = "/usr/bin/docker-proxy -proto tcp -host-port 80 -container-ip 172.17.0.3 -container-port 80"
    proc = fake_proc(tmp_path, (6, "docker-proxy", command, 111), (7, "dockerd", "dockerd", 333))
    proxy, daemon = holder_of(80, proc=proc), holder_of(8080, proc=proc)
    assert proxy is not None
    assert daemon is not None
    assert (proxy.is_docker, proxy.container) == (True, "172.17.0.3")
    assert (daemon.is_docker, daemon.container) == (True, "")
    assert not Holder(1, "nginx", ("nginx", "-container-ip", "1")).is_docker
    assert Holder(1, "docker-proxy", ("docker-proxy", "-container-ip")).container == ""


def test_our_own_socket_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        holder = holder_of(sock.getsockname()[1])
    assert holder is not None
    assert holder.pid == os.getpid()
    assert holder.ours
