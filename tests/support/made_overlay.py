"""Ingress hosts and a task in namespaces, joined as by an overlay."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from meshlb._fastpath import enter_namespace
from meshlb.kernel.visit import visit
from meshlb.transparent import task_ways
from meshlb.transparent.task_ways import Place

HOSTS = ("10.123.0.2", "10.123.0.3")
TASK, NETWORK = "10.123.0.7", ipaddress.IPv4Network("10.123.0.0/24")
CLIENT = "198.51.100.9"  # of documentation; on loopback while a test runs


class Overlay:
    """A bridge with hosts at it, each in a namespace, and a server in the task's that tells who it sees."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.listeners: list[socket.socket] = []
        self.threads: list[threading.Thread] = []

    def path(self, address: str) -> Path:
        return Path("/var/run/netns", self.name(address))

    def name(self, address: str) -> str:
        return f"meshlb-{os.getpid()}-{address}"

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def build(self) -> None:
        switch = self._namespace("switch")
        self.ip("-n", switch, "link", "add", "br0", "type", "bridge")
        self.ip("-n", switch, "link", "set", "br0", "up")
        for address in (*HOSTS, TASK):
            name = self._namespace(address)
            end = f"at-{address.rpartition('.')[2]}"
            mac = task_ways.hardware(address)
            self.ip("-n", switch, "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
            self.ip("-n", switch, "link", "set", end, "master", "br0", "up")
            self.ip("-n", name, "link", "set", "eth0", "address", mac, "up")
            self.ip("-n", name, "link", "set", "lo", "up")
            self.ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        task = self.name(TASK)
        # The way out that a container has: nothing comes back from there.
        self.ip("-n", task, "link", "add", "eth1", "type", "veth", "peer", "name", "nowhere")
        self.ip("-n", task, "link", "set", "nowhere", "up")
        self.ip("-n", task, "link", "set", "eth1", "up")
        self.ip("-n", task, "addr", "add", "172.31.255.2/30", "dev", "eth1")
        self.ip("-n", task, "route", "add", "default", "via", "172.31.255.1")

    def _namespace(self, address: str) -> str:
        name = self.name(address)
        self.names.append(name)
        self.ip("netns", "add", name)
        return name

    def serve(self) -> None:
        """Port 80 is for both kinds at the task's address, 81 for datagrams at all of its addresses."""
        for kind, at, work in (
            (socket.SOCK_STREAM, (TASK, 80), self._streams),
            (socket.SOCK_DGRAM, (TASK, 80), self._datagrams),
            (socket.SOCK_DGRAM, ("", 81), self._datagrams),
        ):
            listener = visit(self.path(TASK), enter_namespace, partial(socket.socket, type=kind))
            listener.bind(at)
            if kind == socket.SOCK_STREAM:
                listener.listen(1024)
            self.listeners.append(listener)
            self.threads.append(threading.Thread(target=work, args=(listener,)))
            self.threads[-1].start()

    def _streams(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, (address, port) = listener.accept()
                with connection, suppress(OSError):
                    said = connection.recv(100)
                    connection.sendall(f"{address} {port} ".encode() + said)

    def _datagrams(self, listener: socket.socket) -> None:
        while True:
            said, (address, port) = listener.recvfrom(100)
            if said == b"end":
                return
            listener.sendto(f"{address} {port} ".encode() + said, (address, port))

    def close(self) -> None:
        self.listeners[0].shutdown(socket.SHUT_RDWR)
        speaker = visit(self.path(TASK), enter_namespace, lambda: socket.socket(type=socket.SOCK_DGRAM))
        for port in (80, 81):
            speaker.sendto(b"end", (TASK, port))
        for thread in self.threads:
            thread.join()
        for each in (*self.listeners, speaker):
            each.close()

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def place(self) -> Place:
        return Place(self.path(TASK), "eth0", NETWORK)

    def left(self, address: str) -> str:
        """What is there of rules."""
        words = (
            "nft list ruleset; ip -4 rule; ip -4 route show table all; sysctl net.ipv4.tcp_fwmark_accept",
        )
        command = ["nsenter", f"--net={self.path(address)}", "sh", "-c", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def socket_as_client(self, host: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """One of an ingress host's that has the client's address."""
        with ExitStack() as stack:
            end = visit(self.path(host), enter_namespace, partial(socket.socket, type=kind))
            stack.enter_context(end)
            end.settimeout(10)
            end.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
            end.bind((CLIENT, port))
            end.connect((TASK, 80))
            stack.pop_all()
        return end
