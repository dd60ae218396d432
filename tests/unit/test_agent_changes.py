"""What the log says when a table changes."""

from __future__ import annotations

import logging

from meshlb import changes
from meshlb.model import BackendState, Port, PortState, PortStatus, Service, Snapshot, Task
from meshlb.table import Table, build

WEB, DNS = Port(80, 8000), Port(81, 8000)


def table(
    *tasks: str, states: dict[str, BackendState] | None = None, ports: tuple[Port, ...] = (WEB,)
) -> Table:
    states = states or {}
    found = tuple(Task(t, t, f"10.0.0.{t}", state=states.get(t, BackendState.UP)) for t in tasks)
    return build(Snapshot((Service("id", "web", ports, found),)))


def status(port: Port, state: PortState = PortState.SERVING, reason: str = "") -> PortStatus:
    return PortStatus(port, "web", state, reason)


def test_ports_that_come_change_and_go() -> None:
    now = table("1", "2", "3")
    [come] = changes.of_ports((), (status(WEB),), now)
    assert come.text == "port 80/tcp of service web: serving, 3 backends"
    assert come.level == logging.INFO
    assert come.fields == {"port": "80/tcp", "service": "web"}
    [failed] = changes.of_ports((status(WEB),), (status(WEB, PortState.FAILED, "held by nginx"),), now)
    assert (failed.text, failed.level) == (
        "port 80/tcp of service web: failed: held by nginx",
        logging.WARNING,
    )
    [moved] = changes.of_ports((status(WEB),), (status(WEB, PortState.REDIRECTED, "Docker"),), table("1"))
    assert moved.text == "port 80/tcp of service web: redirected, 1 backend: Docker"
    [gone] = changes.of_ports((status(WEB), status(DNS)), (status(WEB),), now)
    assert gone.text == "port 81/tcp of service web: closed"
    assert not list(changes.of_ports((status(WEB),), (status(WEB),), now))


def test_backends_that_come_and_go_are_counted_once_per_service() -> None:
    both = (WEB, DNS)
    [change] = changes.of_backends(table("1", "2", ports=both), table("2", "3", "4", ports=both))
    assert change.text == "table: web +2 -1 backends, 3 up"
    assert change.fields == {"service": "web"}


def test_a_change_of_state_is_a_change() -> None:
    draining = table("1", "2", states={"1": BackendState.DRAINING})
    assert [change.text for change in changes.of_backends(table("1", "2"), draining)] == [
        "table: web +0 -0 backends, 1 up, 1 draining"
    ]
    assert not list(changes.of_backends(draining, draining))


def test_the_last_backend_s_end_is_told() -> None:
    assert [change.text for change in changes.of_backends(table("1"), table())] == [
        "table: web +0 -1 backends, none left"
    ]


def test_new_and_lost_services_are_the_ports_news() -> None:
    assert not list(changes.of_backends(Table(), table("1")))
    assert not list(changes.of_backends(table("1"), Table()))


def test_problems_are_told_once_and_taken_back_once() -> None:
    news = list(changes.of_problems(("a", "b"), ("b", "c", "c")))
    assert [(change.level, change.text) for change in news] == [
        (logging.WARNING, "c"),
        (logging.INFO, "no more: a"),
    ]
