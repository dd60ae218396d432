"""Membership: to begin a swarm, to join one, to leave it, and the tokens that let others in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from meshlb.cluster.client import APIClient, request, verb
from meshlb.cluster.swarm_spec import changed
from meshlb.errors import ConfigError, EngineError

PORT = 2377
_SEVERAL = re.compile(r"multiple addresses on (?:different interfaces|interface (\S+)) \(([^()]+)\)")
ROLES = ("worker", "manager")


def with_port(text: str) -> str:
    """An address or interface to listen on, with Swarm's port where it has none (pure)."""
    if not text or text.startswith(":") or text.count(" "):
        raise ConfigError(f'"{text}" is not ADDRESS or INTERFACE, with a :PORT or without')
    bare = text.count(":") != 1 and not re.search(r"\]:\d+$", text)
    return f"{text}:{PORT}" if bare else text


def pool(text: str) -> str:
    """A network from which those of services are cut (pure)."""
    try:
        return str(ipaddress.IPv4Network(text))
    except ValueError as error:
        why = f" ({error})" if "host bits" in str(error) else ""
        raise ConfigError(f'"{text}" is not an IPv4 network such as 10.20.0.0/16{why}') from None


@dataclass(frozen=True, slots=True)
class Invitation:
    """What another node needs to join with a role: the token, and the address of a manager."""

    token: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """The flags of `init`; empty leaves a choice to the engine. `values` are those of swarm_spec.PATHS."""

    advertise_addr: str = ""
    listen_addr: str = f"0.0.0.0:{PORT}"
    data_path_addr: str = ""
    data_path_port: int | None = None
    default_addr_pool: tuple[str, ...] = ()
    default_addr_pool_mask_length: int = 24
    availability: str = "active"
    force_new_cluster: bool = False
    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Initialized:
    """A swarm has begun. `unlock_key` is set when its managers lock themselves."""

    node_id: str
    worker: Invitation
    unlock_key: str = ""


@verb
def init(api: APIClient, options: InitOptions) -> Initialized:
    """Makes this node the first manager of a new swarm."""
    autolock = bool(options.values.get("autolock"))
    body = {
        "AdvertiseAddr": options.advertise_addr,
        "ListenAddr": options.listen_addr,
        "DataPathAddr": options.data_path_addr,
        "DataPathPort": options.data_path_port or 0,
        "DefaultAddrPool": list(options.default_addr_pool),
        "SubnetSize": options.default_addr_pool_mask_length,
        "ForceNewCluster": options.force_new_cluster,
        "Availability": options.availability,
        "AutoLockManagers": autolock,
        "Spec": changed({}, options.values),
    }
    node = request(api, "POST", "/swarm/init", body=body, timeout=60)
    return Initialized(str(node), invitation(api, "worker"), unlock_key(api) if autolock else "")


def choices(error: EngineError) -> tuple[str, ...]:
    """Those of `ADDRESS on INTERFACE` that the engine could not choose from; none on others."""
    match = _SEVERAL.search(str(error.__cause__))
    if not match:
        return ()
    shared = f" on {match[1]}" if match[1] else ""
    return tuple(f"{each}{shared}" for each in match[2].split(" and "))


@verb
def unlock_key(api: APIClient) -> str:
    """The key that managers ask for when they start; empty when they do not lock themselves."""
    return str(request(api, "GET", "/swarm/unlockkey").get("UnlockKey") or "")


@verb
def unlock(api: APIClient, key: str) -> None:
    """Lets this manager, which has started locked, read its data."""
    request(api, "POST", "/swarm/unlock", body={"UnlockKey": key})


@verb
def locked(api: APIClient) -> bool:
    """Whether this node waits for its key; EngineError when it is in no swarm."""
    state = _swarm(api).get("LocalNodeState")
    if state == "inactive":
        raise EngineError("this node is not part of a swarm")
    return bool(state == "locked")


@verb
def inspect(api: APIClient) -> dict[str, Any]:
    """The swarm, as the engine's JSON has it."""
    return dict(request(api, "GET", "/swarm"))


@verb
def update(api: APIClient, /, values: Mapping[str, Any], **rotate: bool) -> None:
    """Changes the swarm's specification; `rotate` are `worker`, `manager` and `key`, which are made anew."""
    swarm = inspect(api)
    root = str((swarm.get("TLSInfo") or {}).get("TrustRoot", ""))
    names = {"worker": "rotateWorkerToken", "manager": "rotateManagerToken", "key": "rotateManagerUnlockKey"}
    query = {names[what]: "true" for what, wanted in rotate.items() if wanted}
    query["version"] = str(swarm["Version"]["Index"])
    request(api, "POST", "/swarm/update", body=changed(swarm["Spec"], values, root), query=query)


def autolocked(api: APIClient) -> bool:
    """Whether managers lock themselves."""
    return bool((inspect(api)["Spec"].get("EncryptionConfig") or {}).get("AutoLockManagers"))


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """The flags of `join`; empty leaves a choice to the engine."""

    token: str
    manager: str
    advertise_addr: str = ""
    listen_addr: str = f"0.0.0.0:{PORT}"
    data_path_addr: str = ""
    availability: str = "active"


@verb
def join(api: APIClient, options: JoinOptions) -> str:
    """Joins this node to the swarm of a manager; the role that the token gave it."""
    # The SDK's join_swarm has no availability.
    body = {
        "RemoteAddrs": [options.manager],
        "JoinToken": options.token,
        "ListenAddr": options.listen_addr,
        "AdvertiseAddr": options.advertise_addr,
        "DataPathAddr": options.data_path_addr,
        "Availability": options.availability,
    }
    request(api, "POST", "/swarm/join", body=body)
    return "manager" if _swarm(api).get("ControlAvailable") else "worker"


@verb
def leave(api: APIClient, force: bool) -> None:
    """Takes this node out of its swarm; a manager only by force."""
    # A node that takes its containers down answers late.
    request(api, "POST", "/swarm/leave", query={"force": "true" if force else "false"}, timeout=120)


@verb
def invitation(api: APIClient, role: str) -> Invitation:
    """What a node needs to join as `role`."""
    if role not in ROLES:
        raise ConfigError(f'"{role}" is not a role: it is one of {" or ".join(ROLES)}')
    token = str(api.inspect_swarm()["JoinTokens"][role.capitalize()])
    return Invitation(token, _own_address(_swarm(api)))


def rotate(api: APIClient, role: str) -> None:
    """Makes the role's old token void: it lets nobody in from now on; nodes that joined with it stay."""
    if role not in ROLES:
        raise ConfigError(f'"{role}" is not a role: it is one of {" or ".join(ROLES)}')
    update(api, {}, **{role: True})


def _swarm(api: APIClient) -> dict[str, Any]:
    return api.info().get("Swarm") or {}


def _own_address(swarm: dict[str, Any]) -> str:
    for manager in swarm.get("RemoteManagers") or ():
        if manager.get("NodeID") == swarm.get("NodeID"):
            return str(manager["Addr"])
    raise EngineError("the engine does not say under which address this manager can be reached: try again")
