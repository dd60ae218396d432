"""Docker's JSON, as a real engine 20.10 sent it and as none should, becomes the mesh's nouns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from counting import operations
from fake_engine import DATA, recorded, with_data_path

from meshlb.errors import EngineError
from meshlb.model import BackendState, Node, Port, Protocol, Service, Snapshot, Task
from meshlb.swarm import api as docker_api
from meshlb.swarm.events import parse_containers
from meshlb.swarm.lists import Lists, carry_lists, find_wanted, parse_lists, parse_wanted, stopping
from meshlb.swarm.snapshots import carry_tasks, snapshot
from meshlb.swarm.targets import Ports, Targets
from meshlb.swarm.view import NOBODY, View, find_ingress, fingerprint, parse_membership, parse_view, renamed
from meshlb.table import Builder, build

MANAGER, WORKER = "10.211.0.1", "10.211.0.2"
NAMESPACE = ("/run/ns", 7)


@pytest.fixture
def real() -> dict[str, Any]:
    return recorded()


def whole(view: View, lists: Lists | None = None) -> Snapshot:
    return snapshot(view, lists, NOBODY, {}, NAMESPACE)


def named(services: tuple[Service, ...], name: str) -> Service:
    return next(service for service in services if service.name == name)


def test_view_of_a_worker(real: dict[str, Any]) -> None:
    view = parse_view(real["view"])
    assert [service.name for service in view.services] == ["sick", "web"]  # not the nodes' own endpoints
    web = named(view.services, "web")
    assert web.ports == (Port(80, 8000), Port(82, 8000), Port(5353, 53))
    assert [task.name[:6] for task in web.tasks] == [f"web.{slot}." for slot in range(1, 7)]
    assert web.tasks[0] == Task("qkvwfv97zv8nr3hcz6agfyl3f", web.tasks[0].name, "10.0.0.8", WORKER)
    assert {peer.address for peer in view.peers} == view.heard == {MANAGER, WORKER}
    assert view.problems == ()


def test_tasks_are_on_the_nodes_that_have_another_address_for_their_data(real: dict[str, Any]) -> None:
    """As with `docker swarm init --data-path-addr`: what gossip calls a host's address is that one."""
    plain = parse_view(real["view"])
    real["view"] = with_data_path(real["view"])
    view = parse_view(real["view"])
    assert (plain.own, view.own) == (WORKER, DATA[WORKER])
    assert {task.node for service in view.services for task in service.tasks} == set(DATA.values())
    names = {data: node for node, data in DATA.items()}
    assert renamed(view, names) == replace(plain, own=view.own)
    assert renamed(plain, names) is plain


def test_membership(real: dict[str, Any]) -> None:
    manager, worker = parse_membership(real["info_manager"]), parse_membership(real["info_worker"])
    assert manager.node == Node("tyqq6cl55yes8ti57q4lsif8t", "eng1", MANAGER)
    assert (manager.state, manager.manager, manager.cluster) == ("active", True, "8nk5tujd1dxvbs6klg7hjjrgu")
    assert (worker.state, worker.manager, worker.cluster) == ("active", False, "")


@pytest.mark.parametrize("info", [None, [], {}, {"Swarm": None}, {"Swarm": {"LocalNodeState": 3}}])
def test_membership_that_is_none(info: object) -> None:
    with pytest.raises(EngineError, match="does not tell its Swarm state"):
        parse_membership(info)


def test_ingress_is_found_by_its_flag(real: dict[str, Any]) -> None:
    networks = real["networks"]
    for network in networks:
        network["Name"] = "renamed" if network["Ingress"] else "ingress"
    assert find_ingress(networks) == "p55oua5tenzju1qjdjjtizzy0"
    assert find_ingress([network for network in networks if not network["Ingress"]]) == ""
    assert find_ingress([None, {"Ingress": True}, {"Ingress": True, "Id": 4}]) == ""


def test_manager_knows_protocols_labels_and_names(real: dict[str, Any]) -> None:
    result = whole(parse_view(real["view"]), parse_lists(real["services"], real["nodes"]))
    web = named(result.services, "web")
    assert web.id == "mnefiv4ungpmyq495i31bnsy0"
    assert web.ports == (Port(80, 8000), Port(82, 8000), Port(5353, 53, Protocol.UDP))
    assert web.labels == (("meshlb.balance", "roundrobin"),)
    assert len(web.tasks) == 6
    assert [node.name for node in result.nodes] == ["eng1", "eng2"]
    assert (result.namespace, result.namespace_id) == NAMESPACE


def test_only_ingress_ports_count(real: dict[str, Any]) -> None:
    services = real["services"]
    published = next(s for s in services if s["Spec"]["Name"] == "web")["Endpoint"]["Ports"]
    published[0]["PublishMode"] = "host"
    web = named(whole(parse_view(real["view"]), parse_lists(services, [])).services, "web")
    assert published[0]["PublishedPort"] not in [port.published for port in web.ports]
    for port in published:
        port["PublishMode"] = "host"
    left = whole(parse_view(real["view"]), parse_lists(services, [])).services
    assert "web" not in [service.name for service in left]


def test_service_without_tasks_is_there_on_a_manager(real: dict[str, Any]) -> None:
    lists = parse_lists(real["services"], real["nodes"])
    web = named(whole(View(), lists).services, "web")
    assert web.ports
    assert web.tasks == ()


def test_nodes_that_gossip_does_not_show_are_known_from_the_list(real: dict[str, Any]) -> None:
    found = whole(parse_view(real["view"]), parse_lists([], real["nodes"]))
    assert [node.name for node in found.nodes] == ["eng1", "eng2"]
    assert found.unseen == (Node("pncwd2x30hdwujyiq02dar0n3", "eng3", "10.211.0.3"),)
    assert whole(parse_view(real["view"])).unseen == ()


@pytest.mark.parametrize("order", [1, -1])
def test_node_that_joined_again_is_its_ready_self(real: dict[str, Any], order: int) -> None:
    """Recorded: eng3 left and joined; its old entry is down and has the same address."""
    lists = parse_lists([], real["nodes"][::order])
    peers = parse_view(real["view"] | {"Peers": [{"Name": "x", "IP": "10.211.0.3"}]})
    assert whole(peers, lists).nodes == (Node("pncwd2x30hdwujyiq02dar0n3", "eng3", "10.211.0.3"),)


def test_manager_that_reports_no_address_of_its_own() -> None:
    found = {"ID": "n", "Status": {"Addr": "0.0.0.0"}, "ManagerStatus": {"Addr": "10.0.0.9:2377"}}
    assert parse_lists([], [found]).nodes == (Node("n", "", "10.0.0.9"),)


def test_worker_knows_its_own_name(real: dict[str, Any]) -> None:
    own = parse_membership(real["info_worker"]).node
    nodes = snapshot(parse_view(real["view"]), None, own, {}, NAMESPACE).nodes
    assert nodes == (Node("", "35147cf294ac", MANAGER), own)


def test_marks_change_states(real: dict[str, Any]) -> None:
    view = parse_view(real["view"])
    task = named(view.services, "web").tasks[2]
    marks = {task.id: BackendState.DOWN, "elsewhere": BackendState.DRAINING}
    web = named(snapshot(view, None, NOBODY, marks, NAMESPACE).services, "web")
    assert [task.state for task in web.tasks].count(BackendState.DOWN) == 1
    assert web.tasks[2].state is BackendState.DOWN


def labelled(real: dict[str, Any], **labels: object) -> Snapshot:
    """The whole, with these labels on the worker that runs some tasks of web."""
    for node in real["nodes"]:
        if node["Status"]["Addr"] == WORKER:
            node["Spec"]["Labels"] = {key.replace("_", "."): text for key, text in labels.items()}
    return whole(parse_view(real["view"]), parse_lists(real["services"], real["nodes"]))


def test_a_nodes_label_is_the_weight_of_its_tasks(real: dict[str, Any]) -> None:
    before, after = labelled(real), labelled(real, meshlb_weight="3", secret="hunter2")
    tasks = named(after.services, "web").tasks
    assert {(task.node, task.weight) for task in tasks} == {(WORKER, 3), (MANAGER, 1)}
    assert {task.weight for task in named(before.services, "web").tasks} == {1}
    assert after.problems == ()
    assert "hunter2" not in str(after)


@pytest.mark.parametrize("text", ["heavy", None, 3, {}])
def test_a_weight_that_is_none_is_reported(real: dict[str, Any], text: object) -> None:
    found = labelled(real, meshlb_weight=text)
    assert {task.weight for task in named(found.services, "web").tasks} == {1}
    [problem] = found.problems
    assert problem.startswith("node eng2: label meshlb.weight: ")


def test_sctp_is_reported() -> None:
    found = {
        "ID": "i",
        "Spec": {"Name": "radio"},
        "Endpoint": {
            "Ports": [
                {"Protocol": "sctp", "TargetPort": 1, "PublishedPort": 36412, "PublishMode": "ingress"},
                {"Protocol": "tcp", "TargetPort": 1, "PublishedPort": 80, "PublishMode": "ingress"},
            ]
        },
    }
    lists = parse_lists([found], [])
    assert lists.problems == ("service radio: port 36412/sctp is not served: meshlb carries tcp and udp",)
    assert lists.services["radio"].ports == (Port(80, 1),)


BAD_PORTS: list[object] = [
    "",
    "8000",
    None,
    7,
    {},
    "Target: x, Publish: 80",
    "Target: 8000, Publish: 99999",
    "Target: 0, Publish: 8",
]


@pytest.mark.parametrize("port", BAD_PORTS)
def test_unreadable_port_is_left_out_and_reported(real: dict[str, Any], port: object) -> None:
    real["view"]["Services"]["web"]["Ports"][0] = port
    view = parse_view(real["view"])
    assert len(named(view.services, "web").ports) == 2
    assert view.problems == (f'service web: cannot read its port "{port}"; left out',)


def test_unpublished_port_is_no_problem(real: dict[str, Any]) -> None:
    real["view"]["Services"]["web"]["Ports"] = ["Target: 8000, Publish: 0"]
    view = parse_view(real["view"])
    assert view.problems == ()
    assert "web" not in [service.name for service in whole(view).services]


@pytest.mark.parametrize("address", ["", None, "<nil>", "10.0.0", 5, ["10.0.0.1"]])
def test_task_without_an_address_is_left_out_and_reported(real: dict[str, Any], address: object) -> None:
    tasks = real["view"]["Services"]["web"]["Tasks"]
    tasks[0]["EndpointIP"] = address
    view = parse_view(real["view"])
    assert len(named(view.services, "web").tasks) == 5
    assert len(view.problems) == 1
    assert f"task {tasks[0]['Name']} has no usable address" in view.problems[0]


def test_task_without_host_and_ipv6(real: dict[str, Any]) -> None:
    tasks = [{"Name": "web.1.abc", "EndpointIP": "fd00::5"}]
    real["view"]["Services"] = {"web": {"Ports": ["Target: 1, Publish: 2"], "Tasks": tasks}}
    assert parse_view(real["view"]).services[0].tasks == (Task("abc", "web.1.abc", "fd00::5"),)


@pytest.mark.parametrize(
    "garbage", [None, 4, "x", [], [None, 7, {}], {"Ports": None}, {"Ports": {}, "Tasks": 3}]
)
def test_garbage_inside_of_the_view_harms_nothing_else(real: dict[str, Any], garbage: object) -> None:
    view = parse_view(
        real["view"] | {"Services": {**real["view"]["Services"], "bad": garbage}, "Peers": garbage}
    )
    assert len(named(whole(view).services, "web").tasks) == 6


@pytest.mark.parametrize(
    "network", [None, [], {}, "x", {"Ingress": False}, {"Ingress": True, "Services": [1]}]
)
def test_garbage_instead_of_the_view(network: object) -> None:
    with pytest.raises(EngineError):
        parse_view(network)


@pytest.mark.parametrize("garbage", [None, 4, "x", [], {}, {"Spec": 3, "Endpoint": [], "Status": "down"}])
def test_garbage_inside_of_the_lists(real: dict[str, Any], garbage: object) -> None:
    lists = parse_lists([garbage, *real["services"]], [garbage, *real["nodes"]])
    assert set(lists.services) == {"sick", "web"}
    with pytest.raises(EngineError):
        parse_lists({"message": "x"}, [])


def test_fingerprint_ignores_the_order_of_tasks(real: dict[str, Any]) -> None:
    def task(name: str, host: str = "192.0.2.1") -> dict[str, Any]:
        return {"Name": name, "EndpointIP": "10.0.0.7", "Info": {"Host IP": host}}

    def body(**tasks: list[dict[str, Any]]) -> bytes:
        services = {name: {"VIP": "10.0.0.2", "Tasks": found} for name, found in tasks.items()}
        return json.dumps(real["view"] | {"Services": services}, separators=(",", ":")).encode()

    one, two, three = task("web.1.a"), task("web.2.b"), task("api.1.c")
    known = fingerprint(body(api=[three], web=[one, two]))
    assert known == fingerprint(body(api=[three], web=[two, one]))
    for other in (
        body(api=[three], web=[one]),
        body(api=[three], web=[one, task("web.2.b", "192.0.2.2")]),
        body(api=[three], web=[one, two, two | {"Info": None}]),
        body(api=[], web=[one, two]),
        body(api=[three], web=[one, two], zoo=[]),
    ):
        assert fingerprint(other) != known


def test_fingerprint_ignores_the_order_of_peers(real: dict[str, Any]) -> None:
    view = real["view"] | {"Peers": [{"Name": name, "IP": "10.0.0.1"} for name in "abc"]}

    def body(**changes: object) -> bytes:
        return json.dumps(view | changes, separators=(",", ":")).encode()

    assert fingerprint(body()) == fingerprint(body(Peers=view["Peers"][::-1]))
    assert fingerprint(body()) != fingerprint(body(Peers=view["Peers"][1:]))
    assert fingerprint(body()) != fingerprint(body(Services={}))
    assert fingerprint(b"garbage") != fingerprint(b"")


def test_removed_service_keeps_its_protocol_while_gossip_shows_it(real: dict[str, Any]) -> None:
    view, lists = parse_view(real["view"]), parse_lists(real["services"], [])
    empty = parse_lists([], [])
    kept = carry_lists(lists, empty, view)
    assert Port(5353, 53, Protocol.UDP) in kept.services["web"].ports
    assert carry_lists(kept, empty, View()).services == {}
    assert carry_lists(None, lists, view) is lists


def test_what_another_service_publishes_now_is_not_carried() -> None:
    old = Service("1", "blue", (Port(80, 8000), Port(53, 53, Protocol.UDP)), ())
    new = Service("2", "green", (Port(80, 9000),), ())
    view = View((Service("", "blue", (Port(80, 8000),), ()),))
    kept = carry_lists(Lists({"blue": old}), Lists({"green": new}), view)
    assert kept.services["blue"].ports == (Port(53, 53, Protocol.UDP),)
    assert kept.services["green"].ports == new.ports
    assert kept.carried == {"blue"}


def test_tasks_of_jobs_are_not_wanted_to_run_and_do_not_stop() -> None:
    listed = [{"ID": "1", "Spec": {"Name": "job", "Mode": {"ReplicatedJob": {}}}}]
    view = View((Service("", "job", (), (Task("t1", "job.1.t1", "10.0.0.5"),)),))
    lists = parse_lists(listed, [])
    assert lists.jobs == {"job"}
    assert stopping(view, lists, frozenset()) == frozenset()
    assert stopping(view, replace(lists, jobs=frozenset()), frozenset()) == {"t1"}


TASKS = [
    {"ID": "t1", "Spec": {"ContainerSpec": {"Env": ['A="ID":"no"', "]]}}"]}}, "Networks": [{"ID": "n1"}]},
    {"ID": "t2", "Labels": {'x"ID': "l1"}, "Slot": 2},
]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("tasks", [TASKS[1:], []])
def test_ids_are_found_without_reading_all_of_the_tasks(
    tasks: list[dict[str, Any]], separators: tuple[str, str]
) -> None:
    body = json.dumps(tasks, separators=separators).encode() + b"\n"
    found = find_wanted(body)
    assert found is not None
    assert found >= parse_wanted(tasks)
    assert not found & {"t1", "no"}
    for end in range(len(body) - 1):
        assert find_wanted(body[:end]) is None, "of half an answer nothing is believed"


def test_tasks_of_which_it_is_not_sure_that_they_are_all_are_read() -> None:
    assert find_wanted(json.dumps(TASKS).encode()) is None, "an odd brace, be it in a text"
    assert find_wanted(b'{"message":"no"}') is None
    assert find_wanted(b'[{"ID" : "t1"}]') is None, "written as no engine does"


def task(slot: int, node: str) -> Task:
    return Task(f"t{slot}", f"web.{slot}.t{slot}", f"10.0.0.{slot}", node)


def view_of(*tasks: Task, heard: frozenset[str]) -> View:
    services = (Service("", "web", (Port(80, 8000),), tasks),) if tasks else ()
    return View(services, tuple(Node("", node, node) for node in sorted(heard)), heard)


@pytest.mark.parametrize("shown", [(), (task(9, "a"),)])
def test_engine_that_has_come_back_is_given_time_to_hear_of_the_others(shown: tuple[Task, ...]) -> None:
    old = view_of(task(1, "a"), task(2, "b"), task(3, "c"), heard=frozenset("abc"))
    carried = carry_tasks(old, view_of(*shown, heard=frozenset("ab")), "a", None)
    assert [found.id for found in carried.services[0].tasks] == ["t3", *(task.id for task in shown)]
    assert carried.services[0].ports == (Port(80, 8000),)
    assert [peer.address for peer in carried.peers] == ["a", "b", "c"]


def test_nothing_is_carried_of_what_is_known_to_be_gone() -> None:
    old = view_of(task(1, "a"), task(2, "b"), heard=frozenset("ab"))
    assert carry_tasks(old, view_of(heard=frozenset("ab")), "a", None).services == ()
    lists = Lists({"other": Service("i", "other", (), ())})
    assert carry_tasks(old, view_of(heard=frozenset("a")), "a", lists).services == ()


def told_long_ago(listed: tuple[Service, ...], *shown: Service) -> dict[str, tuple[str, list[str]]]:
    """Services and their tasks' addresses, by ports, where old lists and gossip show these."""
    lists = Lists({service.name: service for service in listed}, old=True)
    table = build(whole(View(shown), lists))
    assert table.problems == ()
    return {
        str(entry.port): (entry.service, [f"{each.address}:{each.port}" for each in entry.backends])
        for entry in table.entries
    }


OLD_WEB = Service("w", "web", (Port(80, 8000),), (), (("meshlb.balance", "source"),))


def test_a_port_that_another_service_has_since_the_managers_were_heard_is_its_own() -> None:
    green = Service("", "green", (Port(80, 9000),), (task(1, WORKER),))
    assert told_long_ago((OLD_WEB,), green) == {"80/tcp": ("green", ["10.0.0.1:9000"])}
    assert told_long_ago((OLD_WEB,)) == {"80/tcp": ("web", [])}, "nobody contradicts"


def test_ports_that_are_published_since_the_managers_were_heard_are_gossips() -> None:
    udp = replace(OLD_WEB, ports=(Port(53, 5353, Protocol.UDP), Port(81, 8100), Port(80, 8000)))
    web = Service("", "web", (Port(53, 5353), Port(80, 9000), Port(90, 9090)), (task(1, WORKER),))
    assert told_long_ago((udp,), web) == {
        "53/udp": ("web", ["10.0.0.1:5353"]),
        "80/tcp": ("web", ["10.0.0.1:9000"]),
        "90/tcp": ("web", ["10.0.0.1:9090"]),
    }
    shown = whole(View((web,)), Lists({"web": udp}, old=True)).services[0]
    assert (shown.id, shown.labels) == (OLD_WEB.id, OLD_WEB.labels), "labels are better old than none"
    new = whole(View((web,)), Lists({"web": udp})).services[0]
    assert new.ports == udp.ports


@pytest.mark.parametrize(
    ("shown", "ports"),
    [
        ([53], [Port(53, 53)]),
        ([53, 5353], [Port(53, 53), Port(53, 5353, Protocol.UDP)]),
        ([53, 6000], [Port(53, 53), Port(53, 6000, Protocol.UDP)]),
    ],
)
def test_a_number_with_two_protocols_keeps_them(shown: list[int], ports: list[Port]) -> None:
    listed = Service("d", "dns", (Port(53, 53), Port(53, 5353, Protocol.UDP)), ())
    seen = Service("", "dns", tuple(Port(53, target) for target in shown), ())
    [found] = whole(View((seen,)), Lists({"dns": listed}, old=True)).services
    assert list(found.ports) == ports


def test_while_a_target_changes_the_new_one_counts() -> None:
    """Tasks that were seen before are remembered with the former one."""
    seen = Service("", "web", (Port(80, 8000), Port(80, 9000)), (task(1, WORKER),))
    assert told_long_ago((OLD_WEB,), seen) == {"80/tcp": ("web", ["10.0.0.1:9000"])}


def test_what_old_lists_lack_is_carried() -> None:
    old = view_of(task(1, "a"), task(2, "b"), heard=frozenset("ab"))
    lists = Lists({"other": Service("i", "other", (), ())}, old=True)
    carried = carry_tasks(old, view_of(heard=frozenset("a")), "a", lists)
    assert [found.id for found in carried.services[0].tasks] == ["t2"]


def test_garbage_that_is_nested_to_the_limit_is_told_without_its_text(real: dict[str, Any]) -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    real["view"]["Services"]["web"]["Ports"][0] = deep
    assert parse_view(real["view"]).problems == (
        'service web: cannot read its port "something too large to be shown"; left out',
    )
    entry = {"Protocol": deep, "TargetPort": deep, "PublishedPort": deep, "PublishMode": "ingress"}
    lists = parse_lists([{"Spec": {"Name": "x" * 9000}, "Endpoint": {"Ports": [entry]}}], [])
    assert len(lists.problems[0]) < 500
    assert parse_containers([{"Labels": {"com.docker.swarm.task.id": "t"}, "Status": deep}]) == {}


def test_an_error_s_reason_is_one_line() -> None:
    assert docker_api._message(b'{"message": "a\\n\\u001b[2J"}') == "a\\n\\x1b[2J"
    assert docker_api._message(b'{"message": ""}') == "no reason given"


def test_tasks_are_remembered_with_the_targets_that_they_were_started_with() -> None:
    def seen(target: int, *tasks: str) -> dict[str, tuple[Port, ...]]:
        found = tuple(Task(task, task, "10.0.0.5") for task in tasks)
        [service] = targets.remember([Service("1", "web", (Port(80, target), Port(90, 9000)), found)], View())
        return {task.id: task.former for task in service.tasks}

    targets, first, second = Targets(), Port(80, 8000), Port(80, 8100)
    assert seen(8000, "a", "b") == {"a": (), "b": ()}
    assert seen(8100, "a", "b") == {"a": (first,), "b": (first,)}
    assert seen(8100, "a", "b", "c") == {"a": (first,), "b": (first,), "c": ()}
    assert seen(8200, "b", "c", "d") == {"b": (first, second), "c": (second,), "d": ()}
    assert seen(8100, "c", "d") == dict.fromkeys("cd", (Port(80, 8200),)), "rolled back"
    assert targets.remember([], View()) == ()
    assert seen(8000, "c") == {"c": ()}, "of a service that was away nothing is known"


def told(
    targets: Targets, ports: str, shown: str, *tasks: str, old: bool = False
) -> dict[str, tuple[Port, ...]]:
    """What each task was started with, where managers list some ports, or did, and gossip shows others."""

    def published(text: str) -> tuple[Port, ...]:
        words = (word.replace("/", " ").replace(">", " ").split() for word in text.split())
        return tuple(Port(int(number), int(to), Protocol(kind)) for number, kind, to in words)

    found = tuple(Task(task, task, "10.0.0.5") for task in tasks)
    listed = Service("1", "web", published(ports), found)
    [service] = targets.remember([listed], View((Service("", "web", published(shown), found),)), told=not old)
    return {task.id: task.former for task in service.tasks}


def test_an_agent_that_starts_during_an_update_learns_old_targets_from_gossip() -> None:
    targets, old = Targets(), (Port(80, 8000),)
    assert told(targets, "80/tcp>9000", "80/tcp>9000", "a", "b", "d") == dict.fromkeys("abd", ())
    assert told(targets, "80/tcp>9000", "80/tcp>8000", "a", "b", "d") == dict.fromkeys("abd", old)
    assert told(targets, "80/tcp>9000", "80/tcp>9000", "a", "b", "d") == dict.fromkeys("abd", old)
    assert told(targets, "80/tcp>9000", "80/tcp>8000", "b", "d", "e") == {"b": old, "d": old, "e": ()}


def test_where_managers_are_not_heard_any_more_new_tasks_are_reached_where_any_was_shown() -> None:
    targets, other = Targets(), (Port(80, 8000),)
    told(targets, "80/tcp>9000", "80/tcp>9000", "a", old=True)
    assert told(targets, "80/tcp>9000", "80/tcp>8000", "a", "b", old=True) == {"a": other, "b": other}


def test_gossip_that_knows_no_protocols_mixes_up_no_targets() -> None:
    shown = "53/tcp>1053 53/tcp>2053 90/tcp>9000"
    assert told(Targets(), "53/tcp>1053 53/udp>2053", shown, "a") == {"a": ()}
    found = told(Targets(), "53/udp>1053", shown, "a")
    assert found == {"a": (Port(53, 2053, Protocol.UDP),)}


class Follower:
    """A node that hears no manager: looks at gossip become backends."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ports, self._targets, self._builder = Ports(), Targets(), Builder()

    def look(self, shown: int, tasks: dict[str, int]) -> set[tuple[str, int]]:
        """Gossip shows port 80 with the target `shown`; the tasks that are reached, and where."""
        self.now += 0.25
        found = tuple(Task(task, task, f"10.0.0.{ord(task)}") for task in tasks)
        services = (Service("", "web", (Port(80, shown),), found),) if found else ()
        view = self._ports.remember(View(services), self.now)
        result = whole(view)
        table = self._builder.build(replace(result, services=self._targets.remember(result.services, view)))
        assert table.problems == ()
        return {(each.task, each.port) for entry in table.entries for each in entry.backends}


@pytest.mark.parametrize(("old", "new"), [(8000, 9000), (9000, 8000)])
def test_where_gossip_alone_is_known_a_single_task_is_followed_to_its_new_target(old: int, new: int) -> None:
    follower = Follower()
    assert follower.look(old, {"a": old}) == {("a", old)}
    follower.look(old, {})
    for _ in range(100):
        assert ("b", new) in follower.look(new, {"b": new})
    assert follower.look(new, {"b": new}) == {("b", new)}, "what nobody has shown for long is forgotten"


@pytest.mark.parametrize(("old", "new"), [(8000, 9000), (9000, 8000)])
@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("first", [min, max])
def test_where_gossip_alone_is_known_tasks_of_an_update_are_reached_where_they_listen(
    old: int, new: int, start: int, first: Callable[[list[int]], int]
) -> None:
    """Whichever task's ports are shown first, and wherever in the update the agent starts."""
    follower = Follower()
    steps = [
        {"a": old, "b": old, "c": old},
        {"d": new, "b": old, "c": old},
        {"d": new, "e": new, "c": old},
        {"d": new, "e": new, "f": new},
    ]
    for tasks in steps[start:]:
        both = list(tasks.values())
        for shown in (first(both), *both):
            follower.look(shown, tasks)
        for shown in (*both * 20, *[new] * 60, *both * 20):
            reached = follower.look(shown, tasks) if shown in both else tasks.items()
            assert reached >= tasks.items()


def test_targets_that_are_shown_together_are_all_a_port_s() -> None:
    ports, both = Ports(), View((Service("", "dns", (Port(53, 1053), Port(53, 2053)), ()),))
    assert ports.remember(both, 0.0) == both
    one = View((Service("", "dns", (Port(53, 3053),), ()),))
    assert ports.remember(one, 1.0).services == one.services
    assert ports.remember(both, 2.0).services == one.services, (
        "the newest is that which was shown last of all"
    )


def test_ports_cost_no_more_for_each_service_when_there_are_many() -> None:
    def view(services: int, target: int) -> View:
        found = (Service("", f"s{number:04}", (Port(1 + number, target),), ()) for number in range(services))
        return View(tuple(found))

    def cost(services: int) -> tuple[int, int]:
        ports, changed = Ports(), view(services, 2)
        ports.remember(view(services, 1), 0.0)
        return (
            operations(lambda: ports.remember(changed, 0.25)),
            operations(lambda: ports.remember(changed, 0.5)),
        )

    (few, quiet), (many, still_quiet) = cost(50), cost(500)
    assert many < 15 * few
    assert max(quiet, still_quiet) < 50, "a view that does not change costs nothing"
