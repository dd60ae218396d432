"""A snapshot becomes a table."""

from __future__ import annotations

from dataclasses import replace

from meshlb.model import Port, Protocol, Service, Snapshot, Task
from meshlb.policy import BALANCERS, KEYS, Policy
from meshlb.table import Builder, Table, build, changed

WEB = Task("t1", "web.1", "10.0.0.5", "192.168.1.2")


def service(name: str, *ports: Port, tasks: tuple[Task, ...] = (WEB,), **labels: str) -> Service:
    pairs = tuple(sorted((key.replace("_", "-"), value) for key, value in labels.items()))
    return Service(f"id-{name}", name, ports, tasks, pairs)


def with_labels(labels: dict[str, str], *ports: Port) -> Table:
    return build(Snapshot((Service("id", "web", ports or (Port(80, 8000),), (WEB,), tuple(labels.items())),)))


def test_every_published_port_has_an_entry_with_the_services_tasks() -> None:
    table = build(
        Snapshot((service("web", Port(443, 8443), Port(80, 8000)),), namespace="/ns", namespace_id=7)
    )
    assert [(str(entry.port), entry.service) for entry in table.entries] == [
        ("80/tcp", "web"),
        ("443/tcp", "web"),
    ]
    assert [entry.backends[0].port for entry in table.entries] == [8000, 8443]
    assert table.entries[0].backends[0].node == "192.168.1.2"
    assert (table.namespace, table.problems) == ("/ns", ())


def test_a_tasks_own_port_wins() -> None:
    table = build(Snapshot((service("web", Port(80, 8000), tasks=(Task("t", "n", "::1", port=9),)),)))
    assert table.entries[0].backends[0].port == 9


def test_one_port_number_in_two_protocols_is_two_entries() -> None:
    table = build(Snapshot((service("dns", Port(53, 53), Port(53, 53, Protocol.UDP)),)))
    assert [str(entry.port) for entry in table.entries] == ["53/tcp", "53/udp"]


def test_two_services_that_claim_one_port_are_reported_and_the_first_keeps_it() -> None:
    table = build(Snapshot((service("beta", Port(80, 1)), service("alpha", Port(80, 2)))))
    assert [entry.service for entry in table.entries] == ["alpha"]
    assert table.problems == (
        "service beta: port 80/tcp is already published by service alpha; publish another port",
    )


def test_a_listed_service_has_its_port_before_one_that_gossip_alone_still_shows() -> None:
    gone = service("blue", Port(80, 1))
    listed = replace(service("green", Port(80, 2)), id="green-id")
    table = build(Snapshot((replace(gone, id=""), listed)))
    assert [entry.service for entry in table.entries] == ["green"]


def test_a_task_that_was_started_with_another_target_may_listen_at_both() -> None:
    old = replace(WEB, former=(Port(80, 8000), Port(53, 53, Protocol.UDP)))
    new = Task("t2", "web.2", "10.0.0.6")
    [entry] = build(Snapshot((service("web", Port(80, 9000), tasks=(old, new)),))).entries
    assert [(backend.task, backend.port) for backend in entry.backends] == [
        ("t1", 9000),
        ("t1", 8000),
        ("t2", 9000),
    ]


def test_a_task_without_an_address_is_left_out_and_reported_once() -> None:
    lost = Task("t2", "web.2", "")
    table = build(Snapshot((service("web", Port(80, 1), Port(81, 1), tasks=(WEB, lost)),)))
    assert [len(entry.backends) for entry in table.entries] == [1, 1]
    assert table.problems == ('service web: task web.2 has no usable address (""); left out',)


def test_labels_set_the_policy_of_all_ports_and_of_one() -> None:
    table = with_labels(
        {"meshlb.connect-timeout": "1s", "meshlb.port.443.connect-timeout": "2s", "com.example": "x"},
        Port(80, 8000),
        Port(443, 8443),
    )
    assert [entry.policy.connect_timeout for entry in table.entries] == [1.0, 2.0]
    assert table.problems == ()


def test_bad_labels_are_reported_and_leave_the_default() -> None:
    table = with_labels(
        {"meshlb.balance": "leastcon", "meshlb.blance": "x", "meshlb.port.80.connect-timeout": "9"}
    )
    assert table.entries[0].policy == Policy()
    assert table.problems == (
        'service web: label meshlb.balance: "leastcon" is not one of ' + ", ".join(BALANCERS),
        "service web: label meshlb.blance: unknown key; known are " + ", ".join(KEYS),
        'service web: label meshlb.port.80.connect-timeout: "9" is not a duration from 10ms to 60s',
    )


def test_a_label_for_a_port_that_is_not_published_is_reported() -> None:
    table = with_labels({"meshlb.port.8080.balance": "roundrobin"})
    assert table.problems == (
        "service web: label meshlb.port.8080.balance: the service does not publish port 8080",
    )


def test_equal_snapshots_make_equal_tables() -> None:
    one = Snapshot((service("b", Port(2, 2)), service("a", Port(1, 1))))
    other = Snapshot((service("a", Port(1, 1)), service("b", Port(2, 2))))
    assert build(one) == build(other)


def test_a_label_for_a_port_without_a_key_is_reported() -> None:
    table = with_labels({"meshlb.port.80": "x", "meshlb.port.": "x"}, Port(80, 8000))
    assert table.problems == (
        "service web: label meshlb.port.80: names no key; write meshlb.port.80.KEY",
        "service web: label meshlb.port.: the service does not publish port ",
    )


def test_labels_can_neither_flood_nor_forge_the_sentences() -> None:
    labels = {f"meshlb.{number}\n\x1b[2J" + "x" * 9000: "\u202e" for number in range(3000)}
    table = with_labels(labels, *(Port(number, 1) for number in range(1, 200)))
    assert len(table.entries) == 199
    assert table.problems[-1] == "service web: 2950 more problems; mend the others first"
    assert len(table.problems) == 51
    assert all(problem.isprintable() and len(problem) < 1000 for problem in table.problems)


def test_what_a_source_says_is_shown_on_one_line_each() -> None:
    table = build(Snapshot(problems=("a\n\x1b[31mb", "", "x" * 9000)))
    assert table.problems == ("a\\n\\x1b[31mb", "x" * 4096 + "…")


def test_there_is_a_most_of_sentences() -> None:
    table = build(Snapshot(problems=tuple(map(str, range(2000)))))
    assert table.problems[-2:] == ("999", "1000 more problems; mend the others first")


def test_an_address_with_a_zone_is_no_address() -> None:
    table = build(Snapshot((service("web", Port(80, 8000), tasks=(Task("t", "web.1", "fe80::1%\n"),)),)))
    assert table.entries[0].backends == ()
    assert table.problems == ('service web: task web.1 has no usable address ("fe80::1%\\n"); left out',)


def test_what_is_as_it_was_is_not_made_again() -> None:
    builder, other = Builder(), Task("t2", "web.2", "10.0.0.6")
    web, dns = service("web", Port(80, 8000), Port(81, 8001)), service("dns", Port(53, 53))
    first = builder.build(Snapshot((web, dns)))
    same = builder.build(
        Snapshot((service("dns", Port(53, 53)), service("web", Port(80, 8000), Port(81, 8001))))
    )
    assert [new is old for new, old in zip(same.entries, first.entries, strict=True)] == [True] * 3
    assert changed(first, same) == frozenset()
    scaled = builder.build(Snapshot((service("web", Port(80, 8000), tasks=(WEB, other)), dns)))
    assert scaled == build(Snapshot((service("web", Port(80, 8000), tasks=(WEB, other)), dns)))
    assert changed(same, scaled) == {"web"}
    assert changed(scaled, Table()) == {"web", "dns"}


def test_a_service_is_made_anew_for_another_node() -> None:
    builder, web = Builder(), service("web", Port(80, 8000))
    away, here = (builder.build(Snapshot((web,), node=node)) for node in ("192.168.1.9", WEB.node))
    assert [table.entries[0].backends[0].local for table in (away, here)] == [False, True]


def test_a_service_that_is_listed_twice_claims_its_port_twice_however_often_it_is_built() -> None:
    builder, twice = Builder(), Snapshot((service("web", Port(80, 1)),) * 2)
    assert builder.build(twice) == builder.build(twice)
    assert len(builder.build(twice).problems) == 1


def test_a_port_that_another_service_takes_is_a_change_of_both() -> None:
    builder, web = Builder(), service("web", Port(80, 8000), Port(81, 8001))
    before = builder.build(Snapshot((web,)))
    after = builder.build(Snapshot((service("api", Port(81, 1)), web)))
    assert [entry.service for entry in after.entries] == ["web", "api"]
    assert changed(before, after) == {"web", "api"}
