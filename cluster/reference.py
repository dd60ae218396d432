"""The syntax of `--secret` and `--config`: files that Swarm keeps and puts into a service's containers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from meshlb.cluster.units import fields
from meshlb.errors import ConfigError

_READABLE = 0o444


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A secret or a config by its name, and the file that it becomes."""

    source: str
    target: str
    uid: str = "0"
    gid: str = "0"
    mode: int = _READABLE

    def spec(self, kind: str, found: str) -> dict[str, Any]:
        """As the engine's ContainerSpec has it; `kind` is Secret or Config, `found` its id."""
        file = {"Name": self.target, "UID": self.uid, "GID": self.gid, "Mode": self.mode}
        return {"File": file, f"{kind}ID": found, f"{kind}Name": self.source}


def parse(text: str) -> Reference:
    """The reference that `NAME` or `source=NAME,target=/path,uid=0,gid=0,mode=0400` makes."""
    if not text.strip():
        raise ConfigError(
            "an empty text names no secret or config: write its name, or source=NAME,target=/path"
        )
    if "=" not in text and "," not in text:
        return Reference(source=text, target=text)
    values: dict[str, str] = {}
    for key, value in fields(text):
        name = {"src": "source"}.get(key, key)
        if name not in ("source", "target", "uid", "gid", "mode"):
            raise ConfigError(f'"{key}" in "{text}" is not one of source, target, uid, gid, mode')
        values[name] = value
    if not values.get("source"):
        raise ConfigError(f'"{text}" lacks source=, the name of the secret or config')
    return Reference(
        source=values["source"],
        target=values.get("target") or values["source"],
        uid=values.get("uid", "0"),
        gid=values.get("gid", "0"),
        mode=_mode(values["mode"], text) if "mode" in values else _READABLE,
    )


def _mode(value: str, text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{1,4}", value, re.ASCII):
        raise ConfigError(f'"{value}" in "{text}" is not a file mode such as 0400')
    # A leading zero makes it octal, as in C and for docker.
    return int(value, 8) if value.startswith("0") else int(value)
