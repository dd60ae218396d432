"""Where the engine is that a docker context names, as docker's own client has it on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from docker.tls import TLSConfig

from meshlb.errors import EngineError

DEFAULT = "default"


class Endpoint(NamedTuple):
    """An engine's address as DOCKER_HOST has it, empty for this machine's own, and the keys for it."""

    host: str = ""
    tls: TLSConfig | None = None


def endpoint(environment: Mapping[str, str]) -> Endpoint:
    """The engine of DOCKER_CONTEXT, or of the context that `docker context use` has chosen."""
    folder = Path(environment.get("DOCKER_CONFIG") or Path.home() / ".docker")
    name = environment.get("DOCKER_CONTEXT") or _chosen(folder / "config.json")
    if name in ("", DEFAULT):
        return Endpoint()
    digest = hashlib.sha256(name.encode()).hexdigest()
    try:
        found = _read(folder / "contexts" / "meta" / digest / "meta.json")["Endpoints"]["docker"]
        host, skip = str(found.get("Host") or ""), bool(found.get("SkipTLSVerify"))
    except FileNotFoundError:
        raise EngineError(f'there is no docker context "{name}" (`docker context ls` lists them)') from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f'the docker context "{name}" cannot be read: {error}') from error
    return Endpoint(host, _tls(folder / "contexts" / "tls" / digest / "docker", skip))


def _chosen(path: Path) -> str:
    """What `docker context use` has written; a file that cannot be read chooses nothing, as with docker."""
    try:
        return str(_read(path).get("currentContext") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _tls(folder: Path, skip: bool) -> TLSConfig | None:
    """The context's own keys, as far as it has some."""
    ca, cert, key = (folder / f"{name}.pem" for name in ("ca", "cert", "key"))
    if not folder.is_dir():
        return None
    pair = (str(cert), str(key)) if cert.exists() and key.exists() else None
    return TLSConfig(client_cert=pair, ca_cert=str(ca) if ca.exists() else None, verify=not skip)
