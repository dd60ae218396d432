"""The connection to the Docker Engine, and its errors as sentences."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import docker
import docker.errors
import requests
from docker import APIClient
from docker.context import ContextAPI

from meshlb.cluster.faults import explain
from meshlb.errors import EngineError

__all__ = ["APIClient", "connect", "request", "translating", "verb"]

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_HOST = "unix:///var/run/docker.sock"
TROUBLE = (docker.errors.DockerException, requests.RequestException, OSError)


def connect(host: str = "", context: str = "", environment: Mapping[str, str] = os.environ) -> APIClient:
    """A client of the engine that `host`, `context`, DOCKER_HOST or the current context names.

    The order is docker's own. The API version is negotiated: old engines and new ones share no single one.
    """
    settings = dict(environment)
    if host:
        settings["DOCKER_HOST"] = host
    elif context:
        settings["DOCKER_CONTEXT"] = context
        settings.pop("DOCKER_HOST", None)
    _check_context(settings)
    try:
        return docker.DockerClient.from_env(environment=settings, use_ssh_client=True).api
    except (*TROUBLE, ValueError) as error:
        raise EngineError(_unreachable(error, settings.get("DOCKER_HOST") or DEFAULT_HOST)) from error


def _check_context(settings: Mapping[str, str]) -> None:
    """The SDK takes the default for a context that is not there, and would talk to the wrong engine."""
    name = settings.get("DOCKER_CONTEXT", "")
    if settings.get("DOCKER_HOST") or name in ("", "default"):
        return
    if ContextAPI.get_context(name) is None:
        raise EngineError(f'there is no docker context "{name}" (`docker context ls` lists them)')


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
            return f"unix://{path}"
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
    if any(isinstance(cause, (TimeoutError, requests.Timeout)) for cause in causes):
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
