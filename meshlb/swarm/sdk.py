"""Where the engine is: DOCKER_HOST as the docker SDK reads it, the local socket otherwise.

The SDK is 8 MB of memory and a tenth of a second, which the agent on a node's own engine does without.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from meshlb.errors import EngineError
from meshlb.swarm.api import TIMEOUT, Engine, dial_unix

if TYPE_CHECKING:
    import docker

LOCAL = "/var/run/docker.sock"

# Any version that the SDK accepts: it only keeps the SDK from asking the engine by itself, which nothing
# could interrupt, and which wraps "permission denied" in five exceptions. `negotiate` asks.
_UNUSED_VERSION = "1.44"


def find(base_url: str | None = None) -> Engine:
    """The engine at `base_url`, or where DOCKER_HOST says. It is not asked anything yet."""
    if base_url is None and not os.environ.get("DOCKER_HOST"):
        return Engine(partial(dial_unix, LOCAL), LOCAL)
    return _found_by_sdk(base_url)


def _found_by_sdk(base_url: str | None) -> Engine:
    import requests  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        client = _client(base_url).api
    except (DockerException, OSError, ValueError) as error:
        raise EngineError(
            f"cannot tell which Docker Engine to follow ({error}); check DOCKER_HOST"
        ) from error
    url = client.base_url
    adapter: Any = client.get_adapter(url)  # the SDK's stubs do not know its adapters' methods
    path = getattr(adapter, "socket_path", None)
    if isinstance(path, str):
        return Engine(partial(dial_unix, path), path)
    prepared = client.prepare_request(requests.Request("GET", url))
    pool = adapter.get_connection_with_tls_context(prepared, verify=client.verify, cert=client.cert)
    return Engine(partial(_dial_pool, pool), url)


def _client(base_url: str | None) -> docker.DockerClient:
    import docker  # noqa: PLC0415

    if base_url is None:
        return docker.from_env(version=_UNUSED_VERSION)
    return docker.DockerClient(base_url=base_url, version=_UNUSED_VERSION)


def _dial_pool(pool: Any) -> socket.socket:
    connection = pool._new_conn()  # noqa: SLF001  # the only way to a connection of one's own
    connection.timeout = TIMEOUT
    connection.connect()
    sock: socket.socket = connection.sock
    return sock
