"""axe-core, which finds what keeps people from using a page; scripts/test fetches it from npm (MPL-2.0)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import Page

SCRIPT = Path(sys.prefix) / "share" / "axe-core" / "axe.min.js"
_SERIOUS = ("serious", "critical")
_RUN = "axe.run().then(found => JSON.stringify(found.violations))"


async def serious(page: Page) -> list[str]:
    """Its serious findings about the page as it is shown now."""
    if not SCRIPT.exists():
        (pytest.fail if os.environ.get("MESHLB_REQUIRE_PAGE") == "1" else pytest.skip)(
            f"there is no {SCRIPT}"
        )
    if not await page.value("'axe' in window"):
        await page.value(SCRIPT.read_text())
    found = json.loads(await page.value(_RUN))
    return [_told(one) for one in found if one["impact"] in _SERIOUS]


def _told(one: dict[str, Any]) -> str:
    places = [node["html"] for node in one["nodes"]]
    return f"{one['id']} ({one['impact']}): {one['help']}: {places[:3]}"
