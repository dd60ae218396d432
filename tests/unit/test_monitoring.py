"""examples/monitoring: what Prometheus' own judge says of it, and that it asks for what agents tell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from promtool import MONITORING, dashboard_queries, promtool

from meshlb.metrics.exposition import head
from meshlb.metrics.families import families
from meshlb.metrics.usage import Usage
from meshlb.model import SourceStatus, Status


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-http-sd.yml"])
def test_the_configuration_is_one(name: str) -> None:
    assert "is valid" in promtool("check", "config", str(MONITORING / name))


def test_rules_and_alerts_do_as_they_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(MONITORING / "rules-test.yml"))


def test_every_alert_is_tested_and_every_rule_is_used() -> None:
    rules, alerts, tests = (
        (MONITORING / name).read_text() for name in ("rules.yml", "alerts.yml", "rules-test.yml")
    )
    named = re.findall(r"alert: (\w+)", alerts)
    assert named
    for name in named:
        expected = re.findall(rf"alertname: {name}\n(?:.*\n)??\s+exp_alerts:\n", tests)
        assert expected, f"no test sees {name}"
    assert len(set(re.findall(r"record: (\S+)", rules))) == 8


def told() -> set[str]:
    """All names that an agent's samples have."""
    found = families(Status("", SourceStatus("swarm", connected=True)), None, Usage())
    heads = [head(each) for each in found]
    more = {f"{each.name}_{end}" for each in heads if each.kind in ("histogram", "summary")
            for end in ("bucket", "count", "sum")}  # fmt: skip
    return {each.name for each in heads} | more


def texts() -> Iterator[str]:
    yield from dashboard_queries()
    yield from ((MONITORING / name).read_text() for name in ("rules.yml", "alerts.yml", "rules-test.yml"))


def test_nothing_is_asked_for_that_no_agent_tells() -> None:
    recorded = set(re.findall(r"record: (\S+)", (MONITORING / "rules.yml").read_text()))
    asked = {
        name
        for text in texts()
        for name in re.findall(r"(?<![\w:])(?:[a-z]+:)?(?:meshlb|process)_[\w:]+", text)
    }
    assert len(asked) > 20
    assert asked <= told() | recorded | {"process_open_fds"}


def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    rules = [{"record": f"q{number}", "expr": query} for number, query in enumerate(dashboard_queries())]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
