"""What the agent was told on its command line and in its environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Config:
    """The agent's settings. Every one is also the environment variable MESHLB_<NAME>."""

    config: Path | None = None  # a static TOML file instead of the Swarm
    http: str = "127.0.0.1:9946"  # where /healthz and /status answer; empty for nowhere
    workers: int = 0  # threads that move bytes; 0 is one per core
    takeover: str = "auto"  # auto | always | never
    drain: float = 30.0  # seconds that SIGTERM leaves to established connections
    log_format: str = "text"  # text | json
    log_level: str = "info"
