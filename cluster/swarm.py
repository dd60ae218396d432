"""Membership: to begin a swarm, to join one, to leave it, and the tokens that let others in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshlb.cluster.client import APIClient, request, verb
from meshlb.errors import ConfigError, EngineError

PORT = 2377
ROLES = ("worker", "manager")


@dataclass(frozen=True, slots=True)
class Invitation:
    """What another node needs to join with a role: the token, and the address of a manager."""

    token: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """The flags of `init`; empty leaves a choice to the engine."""

    advertise_addr: str = ""
    listen_addr: str = f"0.0.0.0:{PORT}"
    data_path_addr: str = ""
    data_path_port: int | None = None
    default_addr_pool: tuple[str, ...] = ()
    default_addr_pool_mask_length: int = 24
    autolock: bool = False
    force_new_cluster: bool = False


@dataclass(frozen=True, slots=True)
class Initialized:
    """A swarm has begun. `unlock_key` is set when its managers lock themselves."""

    node_id: str
    worker: Invitation
    unlock_key: str = ""


@verb
def init(api: APIClient, options: InitOptions) -> Initialized:
    """Makes this node the first manager of a new swarm."""
    spec = api.create_swarm_spec(autolock_managers=True) if options.autolock else None
    node = api.init_swarm(
        advertise_addr=options.advertise_addr,
        listen_addr=options.listen_addr,
        force_new_cluster=options.force_new_cluster,
        swarm_spec=spec,
        default_addr_pool=list(options.default_addr_pool) or None,
        subnet_size=options.default_addr_pool_mask_length if options.default_addr_pool else None,
        data_path_addr=options.data_path_addr or None,
        data_path_port=options.data_path_port,
    )
    key = str(api.get_unlock_key().get("UnlockKey", "")) if options.autolock else ""
    return Initialized(str(node), invitation(api, "worker"), key)


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


@verb
def rotate(api: APIClient, role: str) -> None:
    """Makes the role's old token void: it lets nobody in from now on; nodes that joined with it stay."""
    if role not in ROLES:
        raise ConfigError(f'"{role}" is not a role: it is one of {" or ".join(ROLES)}')
    swarm = api.inspect_swarm()
    rotated = {f"rotate{role.capitalize()}Token": "true", "version": str(swarm["Version"]["Index"])}
    request(api, "POST", "/swarm/update", body=swarm["Spec"], query=rotated)


def _swarm(api: APIClient) -> dict[str, Any]:
    return api.info().get("Swarm") or {}


def _own_address(swarm: dict[str, Any]) -> str:
    for manager in swarm.get("RemoteManagers") or ():
        if manager.get("NodeID") == swarm.get("NodeID"):
            return str(manager["Addr"])
    raise EngineError("the engine does not say under which address this manager can be reached: try again")
