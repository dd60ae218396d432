"""What is said to the service manager, and what comes from it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlb.handover import systemd


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_sockets_are_stored_under_their_name_in_messages_that_the_kernel_takes(
    manager: socket.socket,
) -> None:
    with socket.socket() as one:
        systemd.SystemdStore().keep("tcp.80", [one] * 450)
        for count in (200, 200, 50):
            data, fds, _, _ = socket.recv_fds(manager, 1000, 253)
            assert data == b"FDSTORE=1\nFDNAME=tcp.80\nFDPOLL=0"
            assert len(fds) == count
            for fd in fds:
                os.close(fd)


def test_dropping_waits_until_it_is_done(manager: socket.socket) -> None:
    dropping = threading.Thread(target=systemd.SystemdStore().drop, args=(["a", "b"],))
    dropping.start()
    assert [manager.recv(100) for _ in range(2)] == [
        b"FDSTOREREMOVE=1\nFDNAME=a",
        b"FDSTOREREMOVE=1\nFDNAME=b",
    ]
    data, fds, _, _ = socket.recv_fds(manager, 100, 1)
    assert data == b"BARRIER=1"
    assert dropping.is_alive()
    os.close(fds[0])
    dropping.join(10)
    assert not dropping.is_alive()


def test_a_manager_that_does_nothing_is_waited_for_a_while(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("meshlb.handover.systemd.PATIENCE", 0.01)
    now = 1000.0
    store = systemd.SystemdStore(lambda: now)
    store.drop(["a"])
    assert "systemd has not done" in caplog.text
    store.drop(["b"])
    now += systemd.PAUSE
    store.drop(["c"])
    manager.setblocking(False)
    told = [manager.recv(100) for _ in range(4)]
    assert told == [b"FDSTOREREMOVE=1\nFDNAME=a", b"BARRIER=1", b"FDSTOREREMOVE=1\nFDNAME=c", b"BARRIER=1"]


def test_nothing_is_waited_for_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.SystemdStore().drop(["a"])


def test_who_has_left_says_nothing_more(manager: socket.socket) -> None:
    systemd.leave()
    systemd.notify("READY=1")
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(10)


CHILD = """
import os, sys
from meshlb.handover import systemd
os.environ.update(LISTEN_PID=sys.argv[1] or str(os.getpid()))
os.environ.update(LISTEN_FDS=sys.argv[2], LISTEN_FDNAMES=sys.argv[3])
found = systemd.passed_on()
assert systemd.passed_on() == []
assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & set(os.environ)
assert all(not each.get_inheritable() for _, sockets in found for each in sockets)
print([(name, each.fileno()) for name, sockets in found for each in sockets])
"""


@pytest.mark.parametrize(
    ("pid", "count", "names", "found"),
    [
        ("", "2", "http:tcp.80", [("http", 3), ("tcp.80", 4)]),
        ("", "2", "http", [("http", 3), ("unknown", 4)]),
        ("", "2", "a:b:c", [("a", 3), ("b", 4)]),
        ("1", "2", "http:tcp.80", []),
        ("", "-1", "http", []),
        ("", "x", "http", []),
    ],
)
def test_sockets_that_are_passed_on(pid: str, count: str, names: str, found: list[tuple[str, int]]) -> None:
    with socket.socket() as one, socket.socket() as two:
        # A shell puts them where a manager would.
        redirect = f'exec 3<&{one.fileno()} 4<&{two.fileno()}; exec "$@"'
        done = subprocess.run(
            ["bash", "-c", redirect, "bash", sys.executable, "-c", CHILD, pid, count, names],
            pass_fds=[one.fileno(), two.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout == f"{found}\n", done.stderr


def test_what_is_no_socket_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        words = ["bash", "-c", f'exec 3<&{file.fileno()}; exec "$@"', "bash"]
        done = subprocess.run(
            [*words, sys.executable, "-c", CHILD, "", "1", "a"],
            pass_fds=[file.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout == "[]\n", done.stderr


def test_the_watchdog_is_ours_or_of_the_agent_that_started_us() -> None:
    mine = {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}
    assert systemd.watchdog(mine) == 60
    assert systemd.watchdog(mine) == 60  # as our replacement finds it
    assert mine == {"WATCHDOG_USEC": "60000000"}
    assert systemd.watchdog({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}) == 0
    assert systemd.watchdog({"WATCHDOG_USEC": "soon"}) == systemd.watchdog({}) == 0


def test_a_store_forgets_all_that_it_was_told(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshlb.handover.systemd.PATIENCE", 0.01)
    store = systemd.SystemdStore()
    for name in ("b", "a"):
        store.keep(name, [])
    store.drop_all()
    assert [manager.recv(100) for _ in range(2)] == [
        b"FDSTOREREMOVE=1\nFDNAME=a",
        b"FDSTOREREMOVE=1\nFDNAME=b",
    ]
