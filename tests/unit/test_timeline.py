"""What the timeline tells of, and that it has an end."""

from __future__ import annotations

from dataclasses import replace

from made_up import MadeUp

from meshlb.model import BackendState, ChannelStatus, Port, PortState, PortStatus
from meshlb.table import Table, build
from meshlb.timeline import LONGEST, News, Timeline, of_failovers, of_nodes, of_ports, of_problems, of_tables


def told(found: object) -> list[tuple[str, str]]:
    assert not isinstance(found, str)
    return [(news.kind, news.text) for news in found]  # type: ignore[attr-defined]


def test_only_the_newest_are_kept() -> None:
    timeline = Timeline(kept=3, clock=lambda: 5.0)
    timeline.tell(News("problem", str(number)) for number in range(10))
    assert [(event.id, event.at, event.news.text) for event in timeline.since(0)] == [
        (8, 5.0, "7"),
        (9, 5.0, "8"),
        (10, 5.0, "9"),
    ]
    assert [event.id for event in timeline.since(9)] == [10]
    assert timeline.since(timeline.last) == []


def test_a_task_is_told_when_it_comes_changes_and_goes() -> None:
    mesh = MadeUp({"web": 2})
    first = build(mesh.status.snapshot)
    assert told(of_tables(Table(), first)) == [("start", "meshlb-agent knows 1 port and 2 tasks")]
    mesh.set_state("t0.1", BackendState.DRAINING)
    second = build(mesh.status.snapshot)
    assert list(of_tables(first, second)) == [
        News(
            "task-draining",
            "web.1 is draining",
            {"service": "web", "task": "t0.1", "node": "192.0.2.2"},
        )
    ]
    entry = second.entries[0]
    third = replace(second, entries=(replace(entry, backends=entry.backends[1:]),))
    assert told(of_tables(second, third)) == [("task-down", "web.1 is down")]
    assert told(of_tables(third, first)) == [("task-up", "web.1 is up")]
    assert told(of_tables(first, first)) == []


def test_a_crowd_of_tasks_is_one_event() -> None:
    one, many = (build(MadeUp({"web": count}).status.snapshot) for count in (1, 51))
    assert told(of_tables(one, many)) == [("task-up", "50 tasks of web are up")]


def test_ports_and_problems() -> None:
    port = Port(80, 8000)
    served = PortStatus(port, "web", PortState.SERVING)
    failed = PortStatus(port, "web", PortState.FAILED, "held by nginx")
    assert told(of_ports([served], [failed])) == [
        ("port-failed", "port 80/tcp of web is failed: held by nginx")
    ]
    assert told(of_ports([failed], [])) == [("port-closed", "port 80/tcp of web is closed")]
    assert told(of_problems(["a", "b"], ["b", "c"])) == [("problem", "c"), ("problem-gone", "a")]
    crowd = told(of_problems([], [str(number) for number in range(100)]))
    assert crowd[-1] == ("problem", "and 92 more")
    assert len(crowd) == 9


def test_nodes_that_fall_silent_and_come_back() -> None:
    both = ("192.0.2.2", "192.0.2.3")
    well = ChannelStatus(2, 2, nodes=both)
    silent = ChannelStatus(2, 1, suspected=("192.0.2.2",), nodes=both)
    dead = replace(silent, dead=("192.0.2.2",))
    names = {"192.0.2.2": "node2"}
    assert told(of_nodes(None, well, names)) == []
    assert told(of_nodes(well, silent, names)) == [("node-suspected", "node node2 has fallen silent")]
    assert told(of_nodes(silent, dead, {})) == [("node-dead", "node 192.0.2.2 is taken for dead")]
    assert told(of_nodes(dead, well, names)) == [("node-back", "node node2 is back")]
    without = ChannelStatus(1, 1, nodes=("192.0.2.3",))
    gone = [("node-gone", "node node2 is not looked for any more: it is silent and not in the Swarm")]
    assert told(of_nodes(dead, without, names)) == gone


def test_failovers_of_all_ports_are_one_event() -> None:
    ports = [f"{number}/tcp" for number in range(1, 6)]
    old, new = {ports[0]: 5}, dict.fromkeys(ports, 10) | {ports[4]: 90}
    assert told(of_failovers(old, new, {ports[4]: "web"})) == [
        (
            "failover",
            "125 attempts went on to another task: web 5/tcp 90, 2/tcp 10, 3/tcp 10, 2 more ports",
        )
    ]
    assert told(of_failovers(new, new, {})) == []


def test_no_event_is_longer_than_it_may_be() -> None:
    mesh = MadeUp({"x" * 5000: 2})
    table = build(mesh.status.snapshot)
    emptied = replace(table, entries=())
    news = [*of_tables(table, emptied), *of_problems([], ["y" * 5000])]
    assert len(news) == 3
    for each in news:
        assert len(each.text) <= LONGEST
        assert all(len(text) <= LONGEST for text in each.about.values())
