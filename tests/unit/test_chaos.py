"""What scripts/chaos understands and prints, and what the engines' events mean."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aim import Aim, Seen, Verdict
from chaos import Row, arguments, document, table
from load import Report
from scenarios import ALL
from watch import Watch


def test_unknown_scenarios_and_no_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments(["power-off", "scale", "--rounds", "2"]).scenarios == ["power-off", "scale"]
    assert arguments(["--label", "meshlb.hold=1s", "--label", "a=b"]).label == ["meshlb.hold=1s", "a=b"]
    for words, why in (
        (["powr-off"], "no scenario powr-off; there are update"),
        (["--rounds", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit):
            arguments(words)
        assert why in capsys.readouterr().err


def test_the_scenarios_have_names_of_their_own_and_something_to_show() -> None:
    assert len({scenario.name for scenario in ALL}) == len(ALL) == 13
    assert all(scenario.aim.failed == 0 and scenario.short <= scenario.rounds for scenario in ALL)


def test_the_table_tells_what_was_missed() -> None:
    seen = Seen(1.0, Report(), Report(), ())
    rows = [
        Row(ALL[0], 10, Verdict("0 of 9 new connections failed", ()), seen),
        Row(ALL[1], 3, Verdict("1 of 9 new connections failed", ("1 new connections failed",)), None),
    ]
    first, second, third = table(rows).splitlines()[2:]
    assert first.split()[:3] == ["update-start-first", "10", "met"]
    assert second.split()[:3] == ["update-stop-first", "3", "MISSED"]
    assert third.strip() == "1 new connections failed"
    documents = json.loads(json.dumps([document(row) for row in rows]))
    assert [found["met"] for found in documents] == [True, False]
    assert documents[0]["attempts"] == 0


def test_an_aim_can_do_without_what_cannot_be_told() -> None:
    aim = Aim(within={"a": 1.0, "b": 2.0})
    assert aim.without(("a",)) == Aim(within={"b": 2.0})
    assert aim.without(()) == aim


def event(name: str, action: str, seconds: float) -> str:
    return json.dumps({"id": name * 64, "Action": action, "timeNano": int(seconds * 1e9)})


def test_a_task_ends_when_it_is_told_to(tmp_path: Path) -> None:
    def popen(_command: list[str], *, stdout: Any, **_: object) -> Any:
        lines = [event("a", "kill", 5), event("a", "die", 6), event("b", "die", 7), event("c", "start", 8)]
        stdout.write("\n".join([*lines, event("c", "health_status: unhealthy", 9), '{"id": "hal']))
        return SimpleNamespace(kill=lambda: None, wait=lambda: None)

    lab = SimpleNamespace(nodes=[SimpleNamespace(name="node1", popen=popen)])
    watch = Watch(cast(Any, lab), tmp_path / "events")
    watch.start()
    watch.lose(["l" * 12], 3.0)
    watch.stop()
    assert watch.ends() == {"a" * 12: 5.0, "b" * 12: 7.0, "l" * 12: 3.0}
    assert watch.deaths() == {"a" * 12: 6.0, "b" * 12: 7.0}
    assert watch.unhealthy() == {"c" * 12: 9.0}
