"""Prometheus' own judge of what is meant for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def program(name: str) -> str:
    """The path of prometheus or promtool; skips where there is none, but not in CI."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found:
        return found
    reason = f"no {name} here; scripts/test fetches it"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def promtool(*words: str, text: str = "") -> str:
    """What it says, all of it; it must be content."""
    done = subprocess.run(
        [program("promtool"), *words], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


MONITORING = Path(__file__).parents[2] / "examples" / "monitoring"


def dashboard_queries() -> list[str]:
    """What the dashboard's panels ask for, of all services."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [query.replace("$service", ".*") for query in found]
