"""The engine's error messages as sentences that say what to do (pure)."""

from __future__ import annotations

import re
from typing import NamedTuple

_RPC = re.compile(r"rpc error: code = \w+ desc = ")


class Fault(NamedTuple):
    """What the engine says, and what we say instead. Groups of the pattern fill {0}, {1}, …"""

    pattern: str
    sentence: str


_FAULTS = (
    Fault(
        r"not a swarm manager\. Use ",
        "this node is not part of a swarm: create one with `meshlb init`, or join one with `meshlb join`",
    ),
    Fault(
        r"not a swarm manager\. Worker nodes",
        "this node is not a swarm manager, and only managers see and change the cluster: "
        "run this on a manager{managers}",
    ),
    Fault(
        r"Manager is being prepared or has trouble",
        "this node is becoming a manager, or cannot reach the others: try again in a moment, or ask another "
        "manager{managers}",
    ),
    Fault(r"not part of a swarm", "this node is not part of a swarm"),
    Fault(
        r"already part of a swarm",
        "this node is already part of a swarm: to join another one, leave this one first with `meshlb leave`",
    ),
    Fault(
        r"invalid join token|valid join token is necessary",
        "the join token is not valid for this swarm: "
        "a manager prints the right one with `meshlb join-token worker`",
    ),
    Fault(
        r"remote CA does not match fingerprint",
        "the join token belongs to another swarm than the manager at this address: "
        "that manager prints the right one with `meshlb join-token worker`",
    ),
    Fault(
        r'transport: Error while dialing:? (?:dial tcp )?([^\s"]+): (?:\w+: )*([^":]+)',
        "no manager answers at {0} ({1}): check the address, and that the manager's port 2377/tcp "
        "can be reached from here",
    ),
    Fault(
        r"Timeout was reached before node joined",
        "the manager did not answer in time; the attempt to join goes on in the background: "
        "`meshlb info` shows its state, `meshlb leave --force` ends it",
    ),
    Fault(
        r"could not find local IP address: dial udp: (?:lookup (\S+)|address (\S+): invalid port)",
        'the manager\'s address "{0}{1}" leads nowhere: write HOST:2377, as `meshlb join-token` on it prints',
    ),
    Fault(
        r"multiple addresses on (?:different interfaces|interface \S+) \((.+)\)",
        "this machine has several addresses ({0}): "
        "say with --advertise-addr at which one the other nodes reach it",
    ),
    Fault(
        r"could not find the system's IP address",
        "this machine has no address that other nodes could reach: say one with --advertise-addr",
    ),
    Fault(
        r"listen tcp (\S+): bind: address already in use",
        "{0} is in use by another process: stop it, or choose another address with --listen-addr",
    ),
    Fault(
        r"Removing the last manager|Leaving the swarm will leave you without managers",
        "this node is the swarm's last manager, and leaving erases the swarm with all its services: "
        "use --force if you mean it",
    ),
    Fault(
        r"participating as a manager",
        "this node is a manager, and the others may lose their majority when it leaves: "
        "demote it first with `meshlb node demote`, or use --force",
    ),
    Fault(
        r"Swarm is encrypted and needs to be unlocked",
        "this manager is locked: unlock it with `meshlb unlock`",
    ),
    Fault(
        r"does not have a leader|context deadline exceeded",
        "the swarm has no leader, because too few of its managers can be reached: bring them back, or "
        "rebuild the swarm from this one with `meshlb init --force-new-cluster`",
    ),
    Fault(
        r"port '(\d+)' is already in use by service '([^']+)'",
        "port {0} is already published by service {1}: choose another port, or free it with "
        "`meshlb service rm {1}`",
    ),
    Fault(
        r"conflicting .*?ports?.* (\d+)|duplicate published ports",
        "one port is published twice: every published port and protocol may stand only once",
    ),
    Fault(
        r"service (\S+) already exists",
        "a service named {0} exists already: choose another --name, or change it with "
        "`meshlb service update {0}`",
    ),
    Fault(
        r"name must be valid as a DNS name component",
        "a service's name may hold only letters, digits, `-` and `_`, at most 63, and begins and ends with "
        "a letter or digit",
    ),
    Fault(r"service (\S+) not found", "no such service: {0} (`meshlb service ls` lists them)"),
    Fault(
        r"network (\S+) not found",
        "no such network: {0} (create it with `docker network create --driver overlay --attachable {0}`)",
    ),
    Fault(
        r"no ingress network is present",
        "the swarm has no ingress network, so no port can be published: create it with "
        "`docker network create --driver overlay --ingress ingress`",
    ),
    Fault(
        r"only used with vip mode|cannot be used with dnsrr mode|EndpointSpec: port published with ingress",
        "--endpoint-mode dnsrr cannot be used with ports published in ingress mode: "
        "leave it out, or publish with mode=host",
    ),
    Fault(r"invalid key|Swarm could not be unlocked", "this is not the key that unlocks this manager"),
    Fault(r"swarm is not locked", "this manager is not locked"),
    Fault(
        r"node (\S+) is not down and can't be removed",
        "node {0} is not down: have it leave with `meshlb leave` first, or use --force",
    ),
    Fault(
        r"node (\S+) is a cluster manager and is a member of the raft cluster",
        "node {0} is a manager: demote it first with `meshlb node demote {0}`",
    ),
    Fault(
        r"attempting to demote the last manager",
        "this node is the swarm's last manager: promote another one first with `meshlb node promote`",
    ),
    Fault(
        r"raft: member cannot be removed, because removing it may result in loss of quorum",
        "the managers would lose their majority: bring back those that cannot be reached first",
    ),
    Fault(r"node (\S+) not found", "no such node: {0} (`meshlb node ls` lists them)"),
    Fault(r"update out of sequence", "the service was changed by someone else at the same moment: try again"),
)
_COMPILED = tuple((re.compile(pattern), sentence) for pattern, sentence in _FAULTS)


def explain(message: str, managers: tuple[str, ...] = ()) -> str:
    """One sentence for the engine's `message`; `managers` are the addresses where it could be run."""
    for pattern, sentence in _COMPILED:
        match = pattern.search(message)
        if match:
            where = f" ({', '.join(managers)})" if managers else ""
            return sentence.format(*match.groups(default=""), managers=where)
    text = " ".join(_RPC.sub("", message).split())
    return f"the Docker daemon says: {text}" if text else "the Docker daemon refused, without saying why"
