"""The rules with which Docker's own mesh leads published ports away, read from the kernel."""

from __future__ import annotations

import contextlib
import ctypes
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from meshlb.model import Protocol

SANDBOX = Path("/var/run/docker/netns/ingress_sbox")
CHAIN = "DOCKER-INGRESS"
DNAT_RULES = (
    re.compile(rf"^-A {CHAIN} .*-p (tcp|udp) .*--dport (\d+) .*-j DNAT\b"),  # iptables-save
    re.compile(r"^\s*(?:meta l4proto \w+ )?(tcp|udp) dport (\d+) .*dnat\b", re.IGNORECASE),  # nft list chain
)


def ingress_ports(rules: str) -> frozenset[tuple[int, Protocol]]:
    """The ports in the text of `iptables-save -t nat`, or of `nft list chain ip nat DOCKER-INGRESS`."""
    found = (pattern.match(line) for line in rules.splitlines() for pattern in DNAT_RULES)
    return frozenset((int(match[2]), Protocol(match[1])) for match in found if match)


def readers(nft: bool, legacy: bool, which: Callable[[str], str | None] = shutil.which) -> list[list[str]]:
    """The commands that show Docker's rules, in the kinds of iptables that this kernel has in use."""
    commands = []
    if nft and which("iptables-nft-save"):
        commands.append(["iptables-nft-save", "-t", "nat"])
    elif nft and which("nft"):
        commands.append(["nft", "list", "chain", "ip", "nat", CHAIN])
    old = next(filter(which, ("iptables-legacy-save", "iptables-save")), None)
    if legacy and old:
        commands.append([old, "-t", "nat"])
    return commands


def legacy_in_use(proc: Path = Path("/proc")) -> bool:
    """Whether the kernel has a nat table of the old iptables. Asking the tool itself would create one."""
    try:
        return "nat" in (proc / "net/ip_tables_names").read_text().split()
    except OSError:
        return False


def generation() -> int | None:
    """The number that the kernel raises with every change to nftables' rules; None where it may not be asked.

    iptables-nft counts as well. Asking costs some 40 microseconds, starting a tool milliseconds.
    """
    subsystem, get_generation, request = 10, 16, 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NLM_F_REQUEST
    question = struct.pack("=IHHIIBBH", 20, subsystem << 8 | get_generation, request, 1, 0, 0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as kernel:  # NETLINK_NETFILTER
            kernel.settimeout(1)
            kernel.send(question)
            answer = kernel.recv(4096)
    except OSError:
        return None
    is_answer = len(answer) >= 28 and struct.unpack_from("=H", answer, 4)[0] == subsystem << 8 | 15
    return int(struct.unpack_from("!I", answer, 24)[0]) if is_answer else None


def output_of(command: Sequence[str]) -> str | None:
    """What a command prints; None when it fails. That a chain is not there is no failure."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    absent = "No such file or directory" in done.stderr
    return done.stdout if done.returncode == 0 or absent else None


def sandbox_addresses(sandbox: Path = SANDBOX) -> frozenset[str]:
    """The IPv4 addresses of the namespace in which Docker's own mesh works; empty where we may not look."""
    found: list[str] = []
    # A namespace is entered by a thread, which takes it to its grave: nothing has to be put back.
    visitor = threading.Thread(target=_visit, args=(sandbox, found), name="meshlb-sandbox")
    visitor.start()
    visitor.join()
    return frozenset(found)


def _visit(sandbox: Path, found: list[str]) -> None:
    clone_newnet = 0x40000000
    with contextlib.suppress(OSError), sandbox.open("rb") as namespace:
        libc = ctypes.CDLL(None)
        if libc.setns(namespace.fileno(), clone_newnet) == 0:
            routes = Path("/proc/thread-self/net/fib_trie").read_text()
            found += re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", routes)


class IngressRules:
    """Docker's DNAT rules for published ports, read again only when they can have changed."""

    def __init__(
        self,
        run: Callable[[Sequence[str]], str | None] = output_of,
        generation: Callable[[], int | None] = generation,
        legacy: Callable[[], bool] = legacy_in_use,
    ) -> None:
        self._run, self._generation, self._legacy = run, generation, legacy
        self._read_at: int | None = None  # the generation of nftables' rules that `_ports` is from
        self._ports: frozenset[tuple[int, Protocol]] = frozenset()

    def ports(self) -> frozenset[tuple[int, Protocol]]:
        """The ports that Docker's own mesh leads away now; those it last did when that cannot be read."""
        now, legacy = self._generation(), self._legacy()
        if now is None and self._read_at is not None and not legacy:
            return self._ports  # the kernel has told before, and will again
        if now != self._read_at or legacy:
            texts = [self._run(command) for command in readers(now is not None, legacy)]
            if None not in texts:
                self._read_at = now
                self._ports = frozenset().union(*(ingress_ports(text) for text in texts if text))
        return self._ports

    @contextlib.contextmanager
    def our_change(self) -> Iterator[None]:
        """Around one transaction of our own, which changes nothing of Docker's: spares the next reading."""
        before = self._generation()
        yield
        if before is not None and before == self._read_at:
            self._read_at = before + 1  # what others change meanwhile raises the number further
