"""The takeover in a network of its own: a client, a node with Docker's rules on it, and Docker's sandbox.

    client 10.77.0.2, fd77::2 ───── 10.77.0.1, fd77::1 node 172.18.0.1 ───── 172.18.0.2 sandbox

The code under test runs as a process inside the node's namespace: this very file, started as a program.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import meshlb
from meshlb.errors import PortError
from meshlb.model import Port, Protocol
from meshlb.ports.ingress import sandbox_addresses
from meshlb.ports.listen import Listeners
from meshlb.ports.takeover import Takeover

MISSING = [tool for tool in ("ip", "nft", "iptables", "setpriv") if not shutil.which(tool)]
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or bool(MISSING), reason=f"needs root and {', '.join(MISSING) or 'nothing else'}"
)
FROM_OUTSIDE = ("10.77.0.1", "fd77::1")
FROM_THE_NODE = ("127.0.0.1", "10.77.0.1", "::1", "fd77::1")
TIMEOUT = 20.0
SOURCE = str(Path(meshlb.__file__).parent.parent)
IP = shutil.which("ip") or "ip"


# What runs inside the namespaces.


def answer(sock: socket.socket, name: str) -> None:
    """Tell everyone who connects who answers, and who is asking; then echo."""

    def serve(client: socket.socket, peer: str) -> None:
        with client:
            client.sendall(f"{name} {peer.removeprefix('::ffff:')}\n".encode())
            while said := client.recv(1000):
                client.sendall(said)

    sock.setblocking(True)
    while True:
        client, address = sock.accept()
        threading.Thread(target=serve, args=(client, address[0]), daemon=True).start()


def run_server(name: str, port: int) -> None:
    """A process called `name` that holds a port, as dockerd does and as any other may."""
    Path("/proc/self/comm").write_text(name)
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        print(json.dumps("ready"), flush=True)
        answer(sock, name)


def run_agent(mode: str) -> None:
    """Serve ports as told on standard input: a JSON list a line, a JSON answer a line."""
    takeover = Takeover(mode)
    listeners = Listeners(takeover)

    def opened(number: int, count: int = 2, *listen: str) -> list[str]:
        try:
            opening = listeners.open(Port(number, 8000), count, listen)
        except PortError as error:
            return ["error", str(error)]
        for sock in opening.sockets:
            threading.Thread(target=answer, args=(sock, "meshlb"), daemon=True).start()
        return [str(opening.state), opening.reason]

    verbs: dict[str, Callable[..., Any]] = {
        "open": opened,
        "close": lambda number: listeners.close(Port(number, 8000)),
        "recheck": lambda: {str(port): str(state) for port, state in listeners.recheck().items()},
        "docker": lambda: sorted([port, str(protocol)] for port, protocol in takeover.docker_publishes()),
        "redirect": lambda count: takeover.set({(n, Protocol.TCP): n + 1 for n in range(1, count + 1)}),
        "redirects": lambda: len(takeover.redirects),
        "table": takeover.table.split,
        "child": lambda: takeover._child and takeover._child.pid,
        "problem": lambda: takeover.problem,
        "shutdown": listeners.shutdown,
    }
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print(json.dumps(verbs[verb](*arguments)), flush=True)


ASK = """
import socket, sys
port, *addresses = sys.argv[1:]
for address in addresses:
    try:
        with socket.create_connection((address, int(port)), 5) as s:
            print(s.makefile().readline().strip() or "nothing")
    except OSError as error:
        print(repr(error))
"""


# The network, and what the tests do in it.


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Program:
    """This file as a process in a namespace."""

    def __init__(self, namespace: str, *arguments: str, prefix: tuple[str, ...] = (), path: str = "") -> None:
        environment = {**os.environ, "PATH": path or os.environ["PATH"], "PYTHONPATH": SOURCE}
        self.process = subprocess.Popen(
            [IP, "netns", "exec", namespace, *prefix, sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.process.args!r} ended"
        return json.loads(line)

    def __call__(self, *message: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return self.read()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Network:
    """Three namespaces and the processes in them."""

    def __init__(self, prefix: str) -> None:
        self.node, self.client, self.sandbox = (f"{prefix}-{name}" for name in ("node", "client", "sandbox"))
        self.programs: list[Program] = []

    def build(self) -> None:
        for name in (self.node, self.client, self.sandbox):
            run("ip", "netns", "add", name)
            self.ip(name, "link", "set", "lo", "up")
        self.wire(self.client, "eth0", ("10.77.0.2/24", "fd77::2/64"), "out", ("10.77.0.1/24", "fd77::1/64"))
        self.wire(self.sandbox, "eth1", ("172.18.0.2/16",), "docker_gwbridge", ("172.18.0.1/16",))
        self.ip(self.sandbox, "route", "add", "default", "via", "172.18.0.1")
        self.inside(self.node, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.inside(self.node, "sysctl", "-qw", "net.ipv4.conf.docker_gwbridge.route_localnet=1")

    def wire(self, other: str, theirs: str, there: tuple[str, ...], ours: str, here: tuple[str, ...]) -> None:
        self.ip(self.node, "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", other)
        for namespace, device, addresses in ((self.node, ours, here), (other, theirs, there)):
            for address in addresses:
                self.ip(
                    namespace,
                    "address",
                    "add",
                    address,
                    "dev",
                    device,
                    *(["nodad"] if ":" in address else []),
                )
            self.ip(namespace, "link", "set", device, "up")

    def remove(self) -> None:
        for program in self.programs:
            program.kill()
        for name in (self.node, self.client, self.sandbox):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def ip(self, namespace: str, *arguments: str) -> None:
        run("ip", "-n", namespace, *arguments)

    def inside(self, namespace: str, *command: str) -> str:
        return run("ip", "netns", "exec", namespace, *command)

    def tables(self) -> str:
        return self.inside(self.node, "nft", "list", "tables")

    def docker_publishes(self, *ports: int, iptables: str = "iptables") -> None:
        """Write the rules as dockerd does (libnetwork's programIngress), and answer in the sandbox."""
        nat = ("ip", "netns", "exec", self.node, iptables, "-t", "nat")
        run(*nat, "-N", "DOCKER-INGRESS")
        run(*nat, "-A", "DOCKER-INGRESS", "-j", "RETURN")
        for chain in ("OUTPUT", "PREROUTING"):
            run(*nat, "-I", chain, "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER-INGRESS")
        gateway = ("-m", "addrtype", "--src-type", "LOCAL", "-o", "docker_gwbridge", "-j", "MASQUERADE")
        run(*nat, "-I", "POSTROUTING", *gateway)
        for port in ports:
            rule = ("-p", "tcp", "--dport", str(port), "-j", "DNAT", "--to-destination", f"172.18.0.2:{port}")
            run(*nat, "-I", "DOCKER-INGRESS", *rule)
            self.serve(self.sandbox, "swarm", port)

    def docker_withdraws(self) -> None:
        self.inside(self.node, "iptables", "-t", "nat", "-F", "DOCKER-INGRESS")

    def serve(self, namespace: str, name: str, port: int) -> Program:
        return self.start(namespace, "server", name, str(port), wait=True)

    def agent(self, mode: str = "auto", prefix: tuple[str, ...] = (), path: str = "") -> Program:
        return self.start(self.node, "agent", mode, prefix=prefix, path=path)

    def start(
        self,
        namespace: str,
        *arguments: str,
        prefix: tuple[str, ...] = (),
        path: str = "",
        wait: bool = False,
    ) -> Program:
        self.programs.append(Program(namespace, *arguments, prefix=prefix, path=path))
        if wait:
            assert self.programs[-1].read() == "ready"
        return self.programs[-1]

    def ask(self, namespace: str, *addresses: str, port: int = 80) -> list[str]:
        """What each address answers to someone in a namespace."""
        return self.inside(
            namespace, sys.executable, "-I", "-S", "-c", ASK, str(port), *addresses
        ).splitlines()

    def outside(self, port: int = 80) -> str:
        """What a client hears over IPv4."""
        return self.ask(self.client, "10.77.0.1", port=port)[0]

    def answers(self, port: int = 80) -> set[str]:
        """Who answers, over every way in."""
        replies = self.ask(self.client, *FROM_OUTSIDE, port=port) + self.ask(
            self.node, *FROM_THE_NODE, port=port
        )
        return {reply.split()[0] for reply in replies}


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network(f"meshlb-take-{os.getpid()}")
    try:
        network.build()
        yield network
    finally:
        network.remove()


@pytest.fixture
def taken(network: Network) -> tuple[Network, Program]:
    """Docker holds port 80 and has planted its rules; the agent has taken the port over."""
    network.docker_publishes(80)
    network.serve(network.node, "dockerd", 80)
    agent = network.agent()
    assert agent("open", 80)[0] == "redirected"
    return network, agent


def test_docker_serves_before_the_agent_comes(network: Network) -> None:
    network.docker_publishes(80)
    network.serve(network.node, "dockerd", 80)
    assert network.outside() == "swarm 10.77.0.2"
    assert network.ask(network.node, "127.0.0.1")[0].startswith("swarm")
    assert network.ask(network.client, "fd77::1")[0].startswith(
        "dockerd"
    )  # no IPv6 rules: its listener answers


def test_a_port_that_docker_holds_is_ours_over_every_way_in(taken: tuple[Network, Program]) -> None:
    network, _ = taken
    assert network.answers() == {"meshlb"}


def test_on_other_addresses_a_port_that_docker_holds_is_refused(network: Network) -> None:
    """Neither Docker's mesh nor what holds the port answers there."""
    network.docker_publishes(80)
    network.serve(network.node, "dockerd", 80)
    network.ip(network.node, "address", "add", "10.77.0.3/24", "dev", "out")
    agent = network.agent()
    assert agent("open", 80, 2, "10.77.0.1", "fd77::/64")[0] == "redirected"
    served = ("10.77.0.1", "fd77::1")
    assert {answer.split()[0] for answer in network.ask(network.client, *served)} == {"meshlb"}
    refused = network.ask(network.client, "10.77.0.3") + network.ask(
        network.node, "127.0.0.1", "10.77.0.3", "::1"
    )
    assert len(refused) == 4
    assert all("ConnectionRefusedError" in answer for answer in refused), refused


def test_on_other_addresses_a_port_with_dockers_rules_alone_is_as_without_them(network: Network) -> None:
    network.docker_publishes(80)
    agent = network.agent()
    assert agent("open", 80, 2, "10.77.0.0/24")[0] == "redirected"
    assert network.outside() == "meshlb 10.77.0.2"
    assert "ConnectionRefusedError" in network.ask(network.node, "127.0.0.1")[0]


def test_an_address_that_comes_to_the_node_is_served_at_once(network: Network) -> None:
    """A virtual address, as keepalived gives it to one node after the other."""
    agent = network.agent()
    assert agent("open", 80, 2, "10.77.0.9") == ["serving", ""]
    network.ip(network.node, "address", "add", "10.77.0.9/24", "dev", "out")
    assert network.ask(network.client, "10.77.0.9") == ["meshlb 10.77.0.2"]
    assert "ConnectionRefusedError" in network.outside()


def test_what_is_only_passing_through_is_left_alone(taken: tuple[Network, Program]) -> None:
    network, _ = taken
    network.ip(network.client, "route", "add", "172.18.0.0/16", "via", "10.77.0.1")
    assert network.ask(network.client, "172.18.0.2") == ["swarm 10.77.0.2"]


def test_clients_keep_their_addresses(taken: tuple[Network, Program]) -> None:
    network, _ = taken
    assert network.outside() == "meshlb 10.77.0.2"
    assert network.ask(network.client, "fd77::1")[0] == "meshlb fd77::2"


def test_the_rules_of_the_old_iptables_are_overtaken_as_well(network: Network) -> None:
    old = ["ip", "netns", "exec", network.node, "iptables-legacy", "-t", "nat", "-S"]
    if (
        not shutil.which("iptables-legacy")
        or subprocess.run(old, capture_output=True, check=False).returncode
    ):
        pytest.skip("neither this kernel nor this distribution has the old iptables")
    network.docker_publishes(80, iptables="iptables-legacy")
    agent = network.agent()
    assert agent("docker") == [[80, "tcp"]]
    assert agent("open", 80)[0] == "redirected"
    assert network.answers() == {"meshlb"}


def test_a_killed_agent_gives_the_port_back(taken: tuple[Network, Program]) -> None:
    network, agent = taken
    agent.process.send_signal(signal.SIGKILL)
    eventually(lambda: "meshlb" not in network.tables())
    assert network.outside() == "swarm 10.77.0.2"
    assert network.ask(network.node, "10.77.0.1")[0].startswith("swarm")
    assert network.ask(network.client, "fd77::1")[0].startswith("dockerd")


def test_a_shut_down_agent_gives_the_port_back(taken: tuple[Network, Program]) -> None:
    network, agent = taken
    agent("shutdown")
    assert "meshlb" not in network.tables()
    assert network.outside() == "swarm 10.77.0.2"


def test_one_of_two_ports_is_given_back(network: Network) -> None:
    network.docker_publishes(80, 81)
    agent = network.agent()
    assert [agent("open", port)[0] for port in (80, 81)] == ["redirected", "redirected"]
    agent("close", 80)
    assert network.outside(80) == "swarm 10.77.0.2"
    assert network.outside(81) == "meshlb 10.77.0.2"


def test_rules_planted_after_the_port_was_bound(network: Network) -> None:
    agent = network.agent()
    assert agent("open", 80) == ["serving", ""]
    network.docker_publishes(80)
    assert network.outside() == "swarm 10.77.0.2"
    assert agent("recheck") == {"80/tcp": "redirected"}
    assert network.answers() == {"meshlb"}
    network.docker_withdraws()
    assert agent("recheck") == {"80/tcp": "serving"}
    assert agent("redirects") == 0
    assert network.answers() == {"meshlb"}


def test_redirects_survive_a_flush_of_all_rules(taken: tuple[Network, Program]) -> None:
    network, _ = taken
    network.inside(network.node, "nft", "flush", "ruleset")
    assert network.answers() == {"meshlb"}


def test_a_killed_child_is_replaced_with_all_its_redirects(taken: tuple[Network, Program]) -> None:
    network, agent = taken
    first = agent("child")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: "meshlb" not in network.tables())
    assert network.outside().startswith("swarm")
    eventually(lambda: agent("recheck") == {"80/tcp": "redirected"})
    assert agent("child") not in (first, None)
    assert agent("problem") == ""
    assert network.answers() == {"meshlb"}


def test_connections_that_are_open_go_on(network: Network) -> None:
    network.docker_publishes(80)
    before = Conversation(network)
    agent = network.agent()
    assert agent("open", 80)[0] == "redirected"
    during = Conversation(network)
    agent("close", 80)
    after = Conversation(network)
    assert [talk.greeting.split()[0] for talk in (before, during, after)] == ["swarm", "meshlb", "swarm"]
    assert [talk.say("still here") for talk in (before, during, after)] == ["still here"] * 3


TALK = """
import socket, sys
with socket.create_connection(("10.77.0.1", 80), 5) as s:
    heard = s.makefile()
    print(heard.readline(), end="", flush=True)
    for line in sys.stdin:
        s.sendall(line.encode())
        print(heard.readline(), end="", flush=True)
"""


class Conversation:
    """A connection from the client that stays open."""

    def __init__(self, network: Network) -> None:
        command = ["ip", "netns", "exec", network.client, sys.executable, "-I", "-S", "-c", TALK]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.greeting = self.process.stdout.readline()

    def say(self, line: str) -> str:
        return self.process.communicate(line + "\n", timeout=TIMEOUT)[0].strip()


def test_always_takes_over_whoever_holds_the_port(network: Network) -> None:
    network.serve(network.node, "nginx", 80)
    agent = network.agent("always")
    assert agent("open", 80)[0] == "redirected"
    assert agent("open", 81)[0] == "redirected"  # free, and redirected all the same
    assert network.answers(80) == network.answers(81) == {"meshlb"}


def test_never_leaves_dockers_ports_alone(network: Network) -> None:
    network.docker_publishes(80)
    agent = network.agent("never")
    state, sentence = agent("open", 80)
    assert state == "error"
    assert "--takeover auto" in sentence
    assert agent("open", 81) == ["serving", ""]
    assert "meshlb" not in network.tables()
    assert network.outside() == "swarm 10.77.0.2"


def test_another_process_on_the_port_is_named(network: Network) -> None:
    holder = network.serve(network.node, "nginx", 80)
    agent = network.agent()
    state, sentence = agent("open", 80)
    assert state == "error"
    assert f"nginx (process {holder.process.pid})" in sentence
    assert network.outside().startswith("nginx")


def test_an_own_port_that_is_published_later_is_redirected(network: Network) -> None:
    network.docker_publishes(80)
    agent = network.agent()
    own = int(agent("open", 80)[1].rpartition(" ")[2])
    assert agent("open", own)[0] == "redirected"
    assert network.answers(80) == network.answers(own) == {"meshlb"}


def test_a_second_agents_redirects_stand_beside_the_firsts_until_those_go(network: Network) -> None:
    network.docker_publishes(80)
    first = network.agent()
    assert first("open", 80)[0] == "redirected"
    before = Conversation(network)
    second = network.agent()
    assert second("open", 80)[0] == "redirected"
    assert network.answers() == {"meshlb"}
    assert network.tables().count("meshlb_") == 2
    first("shutdown")  # the table goes; the process, and so the connection, stays
    assert network.tables().count("meshlb_") == 1
    assert network.answers() == {"meshlb"}
    assert before.say("still here") == "still here"
    second.process.send_signal(signal.SIGKILL)
    eventually(lambda: "meshlb" not in network.tables())
    assert network.outside() == "swarm 10.77.0.2"


def test_without_nft_the_package_is_named(network: Network, tmp_path: Path) -> None:
    iptables = shutil.which("iptables-nft-save")
    if not iptables:
        pytest.skip("needs iptables-nft-save")
    (tmp_path / "iptables-nft-save").symlink_to(iptables)
    network.docker_publishes(80)
    state, sentence = network.agent(path=str(tmp_path))("open", 80)
    assert state == "error"
    assert "apt-get install nftables" in sentence


def test_without_privilege_the_capability_is_named(network: Network) -> None:
    network.serve(network.node, "dockerd", 8080)
    # Who holds the port is seen by root alone: keep the uid, and drop the capability.
    prefix = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    state, sentence = network.agent(prefix=prefix)("open", 8080)
    assert state == "error"
    assert "CAP_NET_ADMIN" in sentence


def test_a_low_port_without_privilege_is_explained(network: Network) -> None:
    prefix = ("setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
    state, sentence = network.agent(prefix=prefix)("open", 80)
    assert state == "error"
    assert "CAP_NET_BIND_SERVICE" in sentence


def test_nft_leaves_no_history_of_commands(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    agent = network.agent("always")
    assert agent("open", 80)[0] == "redirected"
    agent("shutdown")
    assert list(tmp_path.iterdir()) == []


def test_ipv4_is_served_where_ipv6_is_switched_off(network: Network) -> None:
    network.inside(network.node, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    network.docker_publishes(80)
    agent = network.agent()
    assert agent("open", 80)[0] == "redirected"
    assert agent("open", 81)[0] == "serving"
    assert [network.outside(port) for port in (80, 81)] == ["meshlb 10.77.0.2"] * 2


def test_ten_thousand_redirects_are_one_transaction(network: Network) -> None:
    agent = network.agent()
    agent("redirect", 10000)
    assert agent("problem") == ""
    assert agent("redirects") == 10000
    listed = network.inside(network.node, "nft", "list", "map", *agent("table"), "tcp_ports")
    assert listed.count(" : ") == 10001


def test_the_sandboxs_addresses_are_read(network: Network) -> None:
    assert "172.18.0.2" in sandbox_addresses(Path("/run/netns") / network.sandbox)
    assert sandbox_addresses(Path("/run/netns/meshlb-none")) == frozenset()


if __name__ == "__main__":
    if sys.argv[1] == "server":
        run_server(sys.argv[2], int(sys.argv[3]))
    run_agent(sys.argv[2])
