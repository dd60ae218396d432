"""A swarm's specification, as the engine's JSON, from docker's flags."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshlb.cluster.units import fields
from meshlb.errors import ConfigError

Json = dict[str, Any]

# A flag's name without its dashes, and where its value stands in the specification.
PATHS = {
    "autolock": ("EncryptionConfig", "AutoLockManagers"),
    "cert-expiry": ("CAConfig", "NodeCertExpiry"),
    "dispatcher-heartbeat": ("Dispatcher", "HeartbeatPeriod"),
    "external-ca": ("CAConfig", "ExternalCAs"),
    "max-snapshots": ("Raft", "KeepOldSnapshots"),
    "snapshot-interval": ("Raft", "SnapshotInterval"),
    "task-history-limit": ("Orchestration", "TaskHistoryRetentionLimit"),
}


def changed(spec: Json, values: Mapping[str, Any], root: str = "") -> Json:
    """A copy of `spec` with the flags' values; an external CA without a certificate gets `root` (pure)."""
    spec = copy.deepcopy(spec)
    for name, value in values.items():
        group, key = PATHS[name]
        if spec.get(group) is None:
            spec[group] = {}
        spec[group][key] = [_rooted(ca, root) for ca in value] if name == "external-ca" else value
    return spec


def _rooted(ca: Json, root: str) -> Json:
    return ca if ca.get("CACert") else ca | {"CACert": root}


def external_ca(text: str) -> Json:
    """A CA elsewhere: `protocol=cfssl,url=https://ca.example/sign,cacert=FILE`."""
    made: Json = {"Protocol": "cfssl"}
    for key, value in fields(text):
        if key == "protocol":
            if value.lower() != "cfssl":
                raise ConfigError(f'"{value}" in "{text}" is not a protocol of an external CA: it is cfssl')
        elif key == "url":
            made["URL"] = value
        elif key == "cacert":
            made["CACert"] = pem(value)
        else:
            made.setdefault("Options", {})[key] = value
    if not made.get("URL"):
        raise ConfigError(f'"{text}" lacks url=, where certificates are signed')
    return made


def pem(path: str) -> str:
    """A file of PEM."""
    try:
        text = Path(path).read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"the file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the file {path} is not PEM, which is plain ASCII") from error
    if "-----BEGIN " not in text:
        raise ConfigError(f"the file {path} is not PEM: it lacks -----BEGIN …")
    return text
