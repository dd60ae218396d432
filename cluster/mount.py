"""The syntax of `--mount` and `--network`: docker's long forms as the engine's JSON (pure)."""

from __future__ import annotations

from typing import Any

from meshlb.cluster.units import fields, pair, size
from meshlb.errors import ConfigError

TYPES = ("bind", "volume", "tmpfs", "npipe", "cluster")
_TRUE = {"": True, "1": True, "true": True, "0": False, "false": False}
_KEYS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}


def mount(text: str) -> dict[str, Any]:
    """A mount: `type=bind,source=/etc/app,target=/app,readonly`."""
    made: dict[str, Any] = {"Type": "volume"}
    for name, value in fields(text):
        _set(made, _KEYS.get(name, name), value, text)
    if made["Type"] not in TYPES:
        raise ConfigError(
            f'"{made["Type"]}" in "{text}" is not a type of mount: it is one of {", ".join(TYPES)}'
        )
    if "Target" not in made:
        raise ConfigError(f'"{text}" lacks target=, the path inside the container')
    if made["Type"] == "bind" and "Source" not in made:
        raise ConfigError(f'"{text}" lacks source=, the path on the node')
    return made


def _set(made: dict[str, Any], key: str, value: str, text: str) -> None:
    plain = {"type": "Type", "source": "Source", "target": "Target", "consistency": "Consistency"}
    if key in plain:
        made[plain[key]] = value.lower() if key == "type" else value
    elif key == "readonly":
        made["ReadOnly"] = _flag(value, text)
    elif key == "bind-propagation":
        made.setdefault("BindOptions", {})["Propagation"] = value
    elif key == "bind-nonrecursive":
        made.setdefault("BindOptions", {})["NonRecursive"] = _flag(value, text)
    elif key.startswith("tmpfs-"):
        _set_tmpfs(made.setdefault("TmpfsOptions", {}), key, value, text)
    else:
        _set_volume(made, key, value, text)


def _set_tmpfs(options: dict[str, Any], key: str, value: str, text: str) -> None:
    if key == "tmpfs-size":
        options["SizeBytes"] = size(value)
    elif key == "tmpfs-mode" and value and set(value) <= set("01234567"):
        options["Mode"] = int(value, 8)
    else:
        raise ConfigError(f'"{key}={value}" in "{text}" is not tmpfs-size=64m or tmpfs-mode=1777')


def _set_volume(made: dict[str, Any], key: str, value: str, text: str) -> None:
    options = made.setdefault("VolumeOptions", {}) if key.startswith("volume-") else {}
    if key == "volume-nocopy":
        options["NoCopy"] = _flag(value, text)
    elif key == "volume-driver":
        options.setdefault("DriverConfig", {})["Name"] = value
    elif key == "volume-label":
        options.setdefault("Labels", {}).update([pair(value, "label")])
    elif key == "volume-opt":
        options.setdefault("DriverConfig", {}).setdefault("Options", {}).update([pair(value, "option")])
    else:
        raise ConfigError(
            f'"{key}" in "{text}" is not a key of a mount: '
            "write for example type=volume,source=data,target=/data"
        )


def _flag(value: str, text: str) -> bool:
    if value.lower() not in _TRUE:
        raise ConfigError(f'"{value}" in "{text}" is not true or false')
    return _TRUE[value.lower()]


def network(text: str) -> dict[str, Any]:
    """A network to attach to: its name, or `name=backend,alias=db`."""
    if "=" not in text:
        return {"Target": text}
    made: dict[str, Any] = {}
    for key, value in fields(text):
        if key == "name":
            made["Target"] = value
        elif key == "alias":
            made.setdefault("Aliases", []).append(value)
        elif key == "driver-opt":
            made.setdefault("DriverOpts", {}).update([pair(value, "option")])
        else:
            raise ConfigError(f'"{key}" in "{text}" is not one of name, alias, driver-opt')
    if not made.get("Target"):
        raise ConfigError(f'"{text}" lacks name=, the network to attach to')
    return made
