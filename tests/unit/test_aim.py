"""Each aim must be seen to fail: made-up reports, and what is said of them."""

from __future__ import annotations

import math
from dataclasses import replace

from aim import Aim, Seen, judge
from load import Failure, Report, Slow

A, B = "198.18.0.11", "198.18.0.12"


def short(**changes: object) -> Report:
    """Ten seconds of 110 good connections a second on both nodes."""
    answers = {f"{address}:80": {"first": 600, "second": 500} for address in (A, B)}
    return replace(Report(answers=answers, succeeded=2200), **changes)  # type: ignore[arg-type]


def long(*ends: Failure) -> Report:
    return Report(failed=len(ends), failures=list(ends), opened={f"{A}:9000": 10, f"{B}:9000": 10})


def failure(address: str = A, port: int = 80, task: str = "", wall: float = 1000.0) -> Failure:
    return Failure(50.0, 50.1, wall, f"{address}:{port}", "reset", task)


def seen(**changes: object) -> Seen:
    return replace(Seen(10.0, short(), long(), (A, B)), **changes)  # type: ignore[arg-type]


def test_nothing_lost_is_what_is_wanted() -> None:
    verdict = judge(Aim(slowest=1.0), seen())
    assert verdict.is_met
    assert verdict.sentence == (
        "0 of 2220 new connections failed; none slower than 0.1 s; 0 established lost"
    )


def test_one_failed_connection_is_too_many() -> None:
    report = short(failed=1, failed_at={f"{A}:80": 1}, failures=[failure()])
    verdict = judge(Aim(), seen(short=report))
    assert verdict.missed == ("1 new connections failed (1 reset)",)
    assert judge(Aim(failed=1), seen(short=report)).is_met
    assert not judge(Aim(), seen(short=report), room=10).is_met, "counts have no room"


def test_who_was_in_the_hands_of_what_was_killed_is_excused() -> None:
    slow = [Slow(0.1, 999.9, f"{A}:80")]
    report = short(failed=1, failed_at={f"{A}:80": 1}, failures=[failure()], slow=slow)
    caught = seen(short=report, kills=((999.8, 999.95),))
    assert judge(Aim(slowest=0.05), caught).is_met
    assert (
        "1 of 2221 new connections failed, 1 of them in the hands of what was killed"
        in judge(Aim(), caught).sentence
    )
    assert not judge(Aim(), replace(caught, kills=((999.8, 999.85),))).is_met, "it began afterwards"
    assert not judge(Aim(), replace(caught, kills=((1000.1, 1000.2),))).is_met, "it had failed before"
    refused = short(failed_at={f"{A}:80": 1}, failures=[replace(failure(), reason="refused")])
    assert not judge(Aim(), replace(caught, short=refused)).is_met
    more = replace(report, failed_at={f"{A}:80": 2})
    assert not judge(Aim(), replace(caught, short=more)).is_met


def test_who_was_caught_on_a_spared_node_excuses_nobody() -> None:
    report = short(failed_at={f"{A}:80": 1, f"{B}:80": 1}, failures=[failure(B)])
    assert seen(short=report, judged=(A,), kills=((999.0, 1000.0),)).caught == []


def test_failures_that_were_not_written_down_count() -> None:
    assert seen(short=short(failed=2, failed_at={f"{A}:80": 2})).failed == 2


def test_a_long_connection_that_cannot_be_opened_is_a_failed_one() -> None:
    assert judge(Aim(), seen(long=long(failure(port=9000)))).missed == ("1 new connections failed (1 reset)",)


def test_a_node_that_is_spared_is_not_judged() -> None:
    broken = short(failed_at={f"{B}:80": 1}, failures=[failure(B)], slow=[Slow(9.0, 1000.0, f"{B}:80")])
    spared = seen(short=broken, long=long(failure(B, 9000, "first")), judged=(A,))
    assert judge(Aim(slowest=1.0), spared).is_met
    assert len(judge(Aim(slowest=1.0), replace(spared, judged=(A, B))).missed) == 3


def test_a_connection_may_end_with_its_task_and_not_before() -> None:
    end = failure(port=9000, task="first")
    assert judge(Aim(), seen(long=long(end), ends={"first": 999.9})).is_met
    assert judge(Aim(), seen(long=long(end), ends={"first": 1000.1})).is_met, "clocks are read at two places"
    early = judge(Aim(), seen(long=long(end), ends={"first": 1002.0}))
    assert early.missed == ("1 established connections ended before their task (1 reset)",)
    assert not judge(Aim(), seen(long=long(end), ends={"second": 999.9})).is_met
    assert judge(Aim(lost=None), seen(long=long(end))).is_met


def test_times_have_room_on_a_busy_machine() -> None:
    slow = seen(short=short(slow=[Slow(1.5, 1000.0, f"{A}:80")]), measured={"back after": 1.5})
    assert judge(Aim(slowest=1.0), slow).missed == ("the slowest took 1.50 s, 1 are allowed",)
    assert judge(Aim(within={"back after": 1.0}), slow).missed == ("back after 1.50 s, 1 are allowed",)
    assert judge(Aim(slowest=1.0, within={"back after": 1.0}), slow, room=2).is_met


def test_what_was_not_measured_is_missed() -> None:
    assert judge(Aim(within={"back after": 1.0}), seen()).missed == ("never seen: back after",)
    given_up = judge(Aim(within={"back after": 1.0}), seen(measured={"back after": math.inf}))
    assert given_up.missed == ("never seen: back after",)
    assert given_up.sentence.endswith("; never seen: back after")
    assert judge(Aim(true=("policies intact",)), seen()).missed == ("not so: policies intact",)
    assert judge(Aim(true=("it serves",)), seen(found={"it serves": False})).missed == ("not so: it serves",)
    assert judge(Aim(true=("it serves",)), seen(found={"it serves": True})).is_met


def test_too_little_load_proves_nothing() -> None:
    idle = seen(seconds=20.0)
    assert judge(Aim(), idle).missed == ("the load was 55 connections a second on a node, 100 are needed",)
    assert judge(Aim(), idle, room=2).is_met
    nobody = seen(short=Report(), judged=(A,))
    assert not judge(Aim(), nobody, room=10).is_met, "a node that nobody asked is not proven either"
