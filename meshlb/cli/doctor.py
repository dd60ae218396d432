"""`meshlb doctor`: what a node needs to be part of a mesh, looked at one by one."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from meshlb import __version__
from meshlb.cli import agent_view, ask, between, firewall
from meshlb.cli.agent_view import AgentError, AgentView
from meshlb.cli.probe import Finding, lines
from meshlb.cli.program import FAILED, Connection, Verb
from meshlb.errors import MeshError
from meshlb.handover import agent_socket
from meshlb.kernel import nft

OLDEST = (4, 14)  # kernels: what the data path uses was there
FEW_FILES = 65_536
OPENSSL = "openssl"
NOWHERE = ("", "None", "0.0.0.0", "127.0.0.1")  # noqa: S104  what managers say of nodes without an address
ROOTFUL = "meshlb is for a Docker Engine that root runs on the node itself"
VXLAN = 50  # bytes that an overlay's packets are longer than its own


@click.command(cls=Verb, options_metavar="[OPTIONS]")
@agent_view.option
@click.pass_context
def doctor(ctx: click.Context, agent: AgentView) -> None:
    """Look at what this node needs to be part of a mesh, and say what to do about what it lacks."""
    info = _info(ctx.obj)
    findings = [*kernel(os.uname().release), *tools(), *firewall.closed(firewall.ruleset())]
    findings += [*engine(info), *_certificate(info)]
    findings += [*_agent(agent), *_neighbours(info)]
    click.echo("\n".join(lines(findings)))
    bad = sum(finding.good is False for finding in findings)
    click.echo(f"\n{bad} of {len(findings)} need attention" if bad else "\nnothing needs attention")
    ctx.exit(FAILED if bad else 0)


def _info(connection: Connection) -> dict[str, Any] | MeshError:
    from meshlb.cluster.client import translating  # noqa: PLC0415  the SDK loads slowly

    try:
        api = connection.open()
        with translating(api):
            networks = api.networks(filters={"driver": "overlay"})
            found = dict(api.info()) | {"ApiVersion": api.api_version, "Overlays": networks}
            ingress = [network["Id"] for network in networks if network.get("Ingress")]
            found["Ingress"] = api.inspect_network(ingress[0], verbose=True) if ingress else {}
            manager = (found.get("Swarm") or {}).get("ControlAvailable")
            return found | {"SwarmNodes": api.nodes() if manager else []}
    except MeshError as error:
        return error


def kernel(
    release: str, modules: Path = Path("/sys/module"), proc: Path = Path("/proc")
) -> Iterator[Finding]:
    """The kernel's release and what overlays need of it."""
    version = nft.linux_version(release) or (0, 0)
    yield Finding(
        version >= OLDEST, f"kernel {release}", "" if version >= OLDEST else "use Linux 4.14 or later"
    )
    ipvs = (modules / "ip_vs").exists() or (proc / "net/ip_vs").exists()
    if ipvs and version < nft.OWNED:
        text = (
            "IPVS is there, so Docker holds the published ports; this kernel cannot redirect them to agents"
        )
        yield Finding(False, text, "use Linux 5.12 or later, or publish with mode=host")
    elif ipvs:
        yield Finding(True, "IPVS is there: Swarm's own mesh works too, and agents go ahead of it")
    else:
        yield Finding(True, "IPVS is not loaded: Swarm's own mesh cannot work, agents can")


def tools() -> Iterator[Finding]:
    """Programs that agents use."""
    found = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    advice = "" if found else "apt-get install nftables; without it ports that Docker holds are not served"
    yield Finding(bool(found), "nft is there" if found else "nft is missing", advice)


def engine(info: Mapping[str, Any] | MeshError) -> Iterator[Finding]:
    """The engine and its swarm (pure, but for the clock)."""
    if isinstance(info, MeshError):
        yield Finding(False, str(info), "without it the agent serves what it knows, and learns nothing new")
        return
    yield Finding(True, f"Docker Engine {info.get('ServerVersion')}, API {info.get('ApiVersion')}")
    if "name=rootless" in (info.get("SecurityOptions") or ()):
        yield Finding(False, "this engine is rootless: its Swarm has no part in this node's network", ROOTFUL)
    if info.get("OperatingSystem") == "Docker Desktop":
        yield Finding(False, "this engine is in Docker Desktop's virtual machine", ROOTFUL)
    swarm = info.get("Swarm") or {}
    state = str(swarm.get("LocalNodeState") or "inactive")
    role = "manager" if swarm.get("ControlAvailable") else "worker"
    if state == "active":
        yield Finding(True, f"part of a swarm, as a {role}")
    else:
        yield Finding(
            False, f"the node's place in a swarm is: {state}", "meshlb init, meshlb join or meshlb unlock"
        )
    yield from _overlays(info.get("Overlays") or (), str(swarm.get("NodeAddr") or ""))
    yield from _clock(str(info.get("SystemTime") or ""), time.time())


def _overlays(networks: Any, address: str) -> Iterator[Finding]:
    below = _mtu_of(address)
    for network in networks:
        asked = (network.get("Options") or {}).get("com.docker.network.driver.mtu")
        mtu = int(str(asked)) if str(asked).isdigit() else 1500 - VXLAN
        if network.get("Ingress") and below:
            good = mtu + VXLAN <= below
            option = f"--opt com.docker.network.driver.mtu={below - VXLAN}"
            advice = "" if good else f"create the ingress network again with {option}"
            text = f"the ingress network's MTU is {mtu}, that of the node's own network {below}"
            yield Finding(good, text, advice)


def _mtu_of(address: str) -> int:
    """The MTU of the interface with the address; 0 where it cannot be told."""
    if not address:
        return 0
    command = ["ip", "-o", "addr", "show", "to", address]
    try:
        words = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        return int(Path(f"/sys/class/net/{words[1].partition('@')[0]}/mtu").read_text())
    except (OSError, IndexError, ValueError):
        return 0


def _clock(text: str, now: float) -> Iterator[Finding]:
    match = re.match(r"[\d-]+T[\d:]+(?:\.\d{1,6})?", text)
    if not match:
        return
    offset = re.search(r"(Z|[+-]\d\d:\d\d)$", text)
    skew = datetime.fromisoformat(match[0] + (offset[1] if offset else "Z")).timestamp() - now
    good = abs(skew) < between.SKEW
    text = f"the engine's clock and ours differ by {abs(skew):.1f} s"
    yield Finding(good, text, "" if good else "run an NTP client")


def _certificate(info: Mapping[str, Any] | MeshError) -> Iterator[Finding]:
    """Swarm's certificate of this node, which agents introduce themselves with."""
    if isinstance(info, MeshError) or (info.get("Swarm") or {}).get("LocalNodeState") != "active":
        return
    path = Path(str(info.get("DockerRootDir"))) / "swarm/certificates/swarm-node.crt"
    try:
        ends = ends_of(path)
    except PermissionError:
        yield Finding(None, "the node's certificate is root's to read", "sudo meshlb doctor")
    except FileNotFoundError as error:
        if error.filename != OPENSSL:
            yield _unreadable(path, error)
        else:
            yield Finding(
                None, "openssl is not here to read the node's certificate", "apt-get install openssl"
            )
    except (OSError, ValueError) as error:
        yield _unreadable(path, error)
    else:
        yield expiry((ends - time.time()) / 86400)


def _unreadable(path: Path, error: Exception) -> Finding:
    advice = "is that the data root of the Docker that runs? Swarm renews it: `docker swarm ca` on a manager"
    return Finding(False, f"the node's certificate {path} cannot be read: {error}", advice)


def expiry(days: float) -> Finding:
    """How long the node's certificate lasts (pure)."""
    if days > 0:
        return Finding(True, f"the node's certificate ends in {days:.0f} days; Swarm renews it by itself")
    text = (
        f"the node's certificate ended {-days:.0f} days ago: no manager and no agent takes this node for one"
    )
    return Finding(False, text, "are the clock and the way to the managers right? Else leave, and join again")


def ends_of(path: Path) -> float:
    """When a certificate ends, in seconds since 1970."""
    path.read_bytes()  # openssl's own words about a file that it may not read are long
    command = [OPENSSL, "x509", "-enddate", "-noout", "-in", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError("it is no certificate")
    return float(ssl.cert_time_to_seconds(done.stdout.strip().partition("=")[2]))


def _agent(agent: AgentView) -> Iterator[Finding]:
    try:
        status = agent.status()
    except AgentError as error:
        yield Finding(False, str(error), "meshlb agent install, or run meshlb-agent")
        return
    yield from agent_findings(status)
    yield from _limits()


def agent_findings(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What the agent says of itself (pure)."""
    release = status.get("version")
    same = release == __version__
    advice = "" if same else f"this command's is {__version__}: upgrade one of them"
    yield Finding(same or None, f"the agent's release is {release}", advice)
    failed = [port for port in status.get("ports", ()) if port["state"] == "failed"]
    served = len(status.get("ports", ())) - len(failed)
    ports = "1 port is" if served == 1 else f"{served} ports are"
    yield Finding(not failed, f"{ports} served, {len(failed)} {'is' if len(failed) == 1 else 'are'} not")
    for port in failed:
        text = f"port {port['port']} of service {port['service']}: {port['reason']}"
        yield Finding(False, text, f"`meshlb why {port['port']}`; the agent tries again by itself")
    yield from (Finding(None, problem) for problem in status.get("problems", ()))
    channel = status.get("channel")
    if channel:
        whole = channel["connected"] >= channel["peers"] and not channel["problem"]
        advice = channel["problem"] or "open 7947/tcp between the nodes, and run an agent on each"
        text = f"agents heard on other nodes: {channel['connected']} of {channel['peers']}"
        yield Finding(whole, text, "" if whole else advice)
        if channel["suspected"]:
            silent = ", ".join(channel["suspected"])
            yield Finding(
                False, f"nodes that are silent: {silent}", "are they up, and is the network between?"
            )
        yield from between.clocks(channel.get("clocks") or {})


def _limits() -> Iterator[Finding]:
    try:
        connection = agent_socket.connect(ask.usual())
        if connection is None:
            return
        with connection:
            pid, _ = agent_socket.peer(connection)
        text = Path(f"/proc/{pid}/limits").read_text()
    except (MeshError, OSError):
        yield Finding(None, "the agent's limit of open files is root's to see", "sudo meshlb doctor")
        return
    match = re.search(r"Max open files\s+(\d+)", text)
    limit = int(match[1]) if match else 0
    good = limit >= FEW_FILES
    advice = "" if good else "raise LimitNOFILE: two for each connection, and one for each port and core"
    yield Finding(good, f"the agent may open {limit} files", advice)


def _neighbours(info: Mapping[str, Any] | MeshError) -> Iterator[Finding]:
    """The ports by which nodes reach each other."""
    if isinstance(info, MeshError):
        return
    swarm = info.get("Swarm") or {}
    own = str(swarm.get("NodeAddr") or "")
    found = between.endpoints(info.get("Ingress") or {})
    managers = {
        str(manager["Addr"]).rpartition(":")[0].strip("[]") for manager in swarm.get("RemoteManagers") or ()
    }
    nodes = {str((node.get("Status") or {}).get("Addr")) for node in info.get("SwarmNodes") or ()}
    yield from between.ports(managers - {own}, (managers | nodes | {*found}) - {own, *NOWHERE})
    if found:
        yield from between.gossip(info.get("SwarmNodes") or (), found)
        port = int((swarm.get("Cluster") or {}).get("DataPathPort") or 4789)
        yield from between.containers(own, found, port)
