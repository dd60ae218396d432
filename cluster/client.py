"""The connection to the Docker Engine, and its errors as sentences."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import docker
import docker.errors
import requests
from docker import APIClient
from docker.constants import DEFAULT_TIMEOUT_SECONDS
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env
from urllib3 import disable_warnings
from urllib3.exceptions import HTTPError, InsecureRequestWarning, ReadTimeoutError

from meshlb.cluster import ssh
from meshlb.cluster.context import endpoint
from meshlb.cluster.faults import explain
from meshlb.errors import EngineError

__all__ = ["APIClient", "connect", "request", "translating", "verb"]

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_HOST = "unix:///var/run/docker.sock"
# What is read of an answer as it comes ends with urllib3's own errors.
TROUBLE = (docker.errors.DockerException, requests.RequestException, HTTPError, OSError)


def connect(
    host: str = "",
    context: str = "",
    environment: Mapping[str, str] = os.environ,
    timeout: int = DEFAULT_TIMEOUT_SECONDS,
    keys: Keys | None = None,
) -> APIClient:
    """A client of the engine that `host`, `context`, DOCKER_HOST or the current context names.

    The order is docker's own, `timeout` the seconds that an answer may take. The API version is negotiated:
    old engines and new ones share no single one.
    """
    settings = dict(environment)
    if host:
        settings["DOCKER_HOST"] = host
    elif context:
        settings["DOCKER_CONTEXT"] = context
        settings.pop("DOCKER_HOST", None)
    ssh.install()
    where = settings.get("DOCKER_HOST", "")
    try:
        own = dict[str, Any](**kwargs_from_env(settings))
        if not where:
            found = endpoint(settings)
            where = found.host
            own = {"base_url": found.host or None, "tls": found.tls or own.get("tls")}
        if keys:
            own["tls"] = _tls(keys, settings)
        return Client(version="auto", use_ssh_client=True, timeout=timeout, **own)
    except (*TROUBLE, ValueError, RuntimeError) as error:  # the last: there is no home directory
        raise EngineError(_unreachable(error, where or DEFAULT_HOST)) from error


@dataclass(frozen=True, slots=True)
class Keys:
    """What --tls… say: files in PEM, by default those of DOCKER_CERT_PATH or ~/.docker."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True


def _tls(keys: Keys, settings: Mapping[str, str]) -> TLSConfig:
    folder = Path(settings.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    ca, cert, key = (
        given or str(folder / f"{name}.pem")
        for given, name in ((keys.ca, "ca"), (keys.cert, "cert"), (keys.key, "key"))
    )
    pair = (cert, key) if keys.cert or keys.key or Path(cert).exists() else None
    return TLSConfig(client_cert=pair, ca_cert=ca if keys.verify else None, verify=keys.verify)


class Client(APIClient):
    """The SDK's client, for which the authorities that it is told count more than the environment's."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """As requests has it, whose REQUESTS_CA_BUNDLE would replace DOCKER_CERT_PATH's ca.pem."""
        merged = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if not self.verify:
            disable_warnings(InsecureRequestWarning)  # it is what the user has asked for
        return merged if self.verify is True else {**merged, "verify": self.verify}


@contextmanager
def translating(api: APIClient) -> Iterator[None]:
    """Turns whatever the engine or the way to it does wrong into an EngineError."""
    try:
        yield
    except docker.errors.APIError as error:
        raise EngineError(explain(str(error.explanation or error), _managers(api))) from error
    except TROUBLE as error:
        raise EngineError(_unreachable(error, address(api))) from error


def verb(function: Callable[Concatenate[APIClient, P], R]) -> Callable[Concatenate[APIClient, P], R]:
    """A function of the engine whose errors are EngineErrors."""

    @functools.wraps(function)
    def translated(api: APIClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with translating(api):
            return function(api, *args, **kwargs)

    return translated


def request(
    api: APIClient,
    method: str,
    path: str,
    *,
    body: Any = None,
    query: Mapping[str, str] | None = None,
    filters: Mapping[str, list[str]] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Any:
    """What the engine answers to one request that the SDK has no method, field or time limit for."""
    url = f"{api.base_url}/v{api.api_version}{path}"
    asked = {**(query or {}), **({"filters": json.dumps(filters)} if filters else {})}
    response = api.request(
        method, url, json=body, params=asked, headers=headers, timeout=timeout or api.timeout
    )
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        # raises an APIError that carries the engine's own message
        docker.errors.create_api_error_from_http_exception(error)
    return response.json() if response.content else None


def address(api: APIClient) -> str:
    """Where the engine is, as DOCKER_HOST would say it."""
    # The SDK replaces a socket's path in `base_url`; the adapter still knows it.
    for adapter in api.adapters.values():
        path = getattr(adapter, "socket_path", "")
        if path:
            return str(path) if "://" in path else f"unix://{path}"
    return str(api.base_url)


def _managers(api: APIClient) -> tuple[str, ...]:
    """The addresses of the swarm's managers, as far as this node knows them."""
    try:
        known = api.info().get("Swarm", {}).get("RemoteManagers") or ()
        return tuple(str(manager["Addr"]).rpartition(":")[0] for manager in known)
    except (*TROUBLE, KeyError, AttributeError, TypeError):
        return ()


def _unreachable(error: BaseException, host: str) -> str:
    causes = tuple(_causes(error))
    told = next((cause for cause in causes if isinstance(cause, EngineError)), None)
    if told:
        return str(told)
    if any(isinstance(cause, PermissionError) for cause in causes):
        return (
            f"permission denied on the Docker daemon's socket {host}: run this as root, or add yourself "
            "to the group docker (`sudo usermod -aG docker $USER`, then log in again)"
        )
    if any(isinstance(cause, (FileNotFoundError, ConnectionRefusedError)) for cause in causes):
        return (
            f"cannot connect to the Docker daemon at {host}: is it running? "
            "(`systemctl start docker`; DOCKER_HOST and `docker context` say where it is)"
        )
    if any(isinstance(cause, (TimeoutError, requests.Timeout, ReadTimeoutError)) for cause in causes):
        return f"the Docker daemon at {host} did not answer in time: is it overloaded or stuck?"
    return f"cannot talk to the Docker daemon at {host}: {causes[-1] or error}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it: the HTTP libraries hide an OSError in arguments and contexts."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        current = waiting.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
