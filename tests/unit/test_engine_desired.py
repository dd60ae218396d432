"""What only managers know: learnt from a manager's engine, told to others, taken from others."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from fake_engine import DATA, FakeEngine, with_data_path
from test_engine_source import (
    WEB_TASK,
    Watcher,
    event,
    hurry,
    run,
    service,
    state_of,
    swarm_event,
    watch,
)

from meshlb.model import BackendState, Desired, Port, Protocol, Remote, Service, Standing, Wanted
from meshlb.swarm import api as docker_api
from meshlb.swarm import follow as docker_follow
from meshlb.swarm import targets
from meshlb.swarm.api import Engine
from meshlb.swarm.targets import PORTS_STAY, Ports
from meshlb.swarm.view import View

__all__ = ["hurry"]  # its waits are these tests' too


def service_with(name: str, *ports: int) -> Service:
    return Service("", name, tuple(Port(port, port) for port in ports), ())


def test_a_task_that_is_not_wanted_any_more_drains_before_its_signal(tmp_path: Path) -> None:
    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                await watcher.first()
                await watcher.state(BackendState.UP)
                await watcher.listening(fake)
                fake.answers["tasks"] = [{"ID": task} for task in fake.tasks if task != WEB_TASK]
                fake.emit(swarm_event("service", "update"))
                await watcher.state(BackendState.DRAINING)

    run(scenario())


def test_a_manager_that_does_not_list_its_tasks_drains_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            fake.answers["tasks"] = (500, {"message": "rpc error"})
            async with watch(fake.url) as watcher:
                await watcher.first()
                await watcher.problem("rpc error")
                await watcher.state(BackendState.UP)

    run(scenario())


def test_lists_that_do_not_come_end_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine asks the leader for them, and that may have vanished."""
    monkeypatch.setattr(docker_api, "TIMEOUT", 1.0)

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                await watcher.listening(fake)
                asked = fake.count("/info")
                fake.mute = {"services", "tasks"}
                fake.emit(swarm_event("service", "update"))
                await watcher.problem("does not answer /")
                await watcher.polls(fake, 5)
                assert fake.count("/info") == asked, "no new session"
                await watcher.state(BackendState.UP)

    run(scenario())


def test_lists_that_take_long_hold_up_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_api, "TIMEOUT", 30)

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                await watcher.listening(fake)
                asked = fake.count("/services")
                fake.mute = {"services"}
                fake.emit(swarm_event("service", "update"))
                await watcher.until(lambda: fake.count("/services") > asked, "the request")
                fake.emit(event("die"))
                await watcher.state(BackendState.DOWN)
                view = fake.view()
                gone = view["Services"]["web"]["Tasks"].pop()["Name"].rpartition(".")[2]
                fake.answers["view"] = view
                await watcher.until(lambda: state_of(watcher.seen[-1], gone) is None, "the change")

    run(scenario())


def test_managers_that_do_not_come_hold_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_api, "TIMEOUT", 30)
    monkeypatch.setattr(docker_follow, "MEMBERSHIP_EVERY", 0.2)

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                await watcher.listening(fake)
                fake.mute = {"info"}
                asked = fake.count("/info")
                await watcher.until(lambda: fake.count("/info") > asked, "the request")
                fake.emit(event("die"))
                await watcher.state(BackendState.DOWN)

    run(scenario())


def test_lists_that_did_not_come_are_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_api, "TIMEOUT", 1.0)
    monkeypatch.setattr(docker_follow, "QUIET", 60.0)
    monkeypatch.setattr(docker_follow, "HOT", 0.0)

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                await watcher.listening(fake)
                fake.mute = {"services"}
                view = fake.view()
                view["Services"]["new"] = {"Ports": ["Target: 53, Publish: 53"], "Tasks": []}
                fake.answers["view"] = view
                await watcher.problem("does not answer /")
                asked = fake.count("/services")
                for _ in range(5):
                    fake.emit(swarm_event("service", "update"))
                    await watcher.polls(fake, 5)
                assert fake.count("/services") == asked

    run(scenario())


def test_tasks_that_began_while_tasks_were_listed_are_not_about_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_api, "TIMEOUT", 30)
    began = {"Name": "web.7.began", "EndpointIP": "10.0.0.77", "Info": {"Host IP": "10.211.0.2"}}

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                await watcher.listening(fake)
                fake.held["tasks"] = answered = threading.Event()
                asked = fake.count("/tasks")
                fake.emit(swarm_event("service", "update"))
                await watcher.until(lambda: fake.count("/tasks") > asked, "the request")
                view = fake.view()
                view["Services"]["web"]["Tasks"].append(began)
                fake.answers["view"] = view
                await watcher.state(BackendState.UP, "began")
                answered.set()
                await watcher.until(lambda: fake.count("/tasks") > asked + 2, "the next requests")
                states = {state_of(snapshot, "began") for snapshot in watcher.seen}
                assert states == {None, BackendState.UP}

    run(scenario())


def test_many_events_of_services_are_few_requests(tmp_path: Path) -> None:
    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                await watcher.listening(fake)
                asked, began = fake.count("/services"), time.monotonic()
                for _ in range(50):
                    fake.emit(swarm_event("service", "update"))
                    await watcher.polls(fake, 1)
                lasted = time.monotonic() - began
                assert fake.count("/services") - asked <= lasted / docker_follow.TASKS_EVERY + 2

    run(scenario())


@pytest.mark.parametrize(("cost", "seconds"), [(0.0, 0.25), (0.01, 0.25), (0.05, 1.0), (3.0, 1.5)])
def test_tasks_that_cost_much_are_listed_less_often(cost: float, seconds: float) -> None:
    assert docker_follow.tasks_pause(cost) == pytest.approx(seconds)


def test_tasks_are_listed_often_only_while_they_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_follow, "TASKS_STIR", 0.0)

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                await watcher.listening(fake)
                await watcher.polls(fake, 3)
                before = fake.count("/tasks")
                await watcher.polls(fake, 30)
                assert fake.count("/tasks") <= before + 1

    run(scenario())


def test_a_manager_tells_what_it_knows(tmp_path: Path) -> None:
    async def scenario() -> None:
        told: list[Standing] = []
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            fake.answers["info"] |= {"DockerRootDir": "/data"}
            watcher = watch(fake.url)
            watcher.source.on_standing = told.append
            async with watcher:
                await watcher.until(lambda: told, "a standing")
                assert told[-1].root == "/data"
                assert told[-1].managers == ("10.211.0.1",)
                desired = told[-1].desired
                assert desired is not None
                [web] = [service for service in desired.services if service.name == "web"]
                assert Port(5353, 53, Protocol.UDP) in web.ports
                assert web.tasks == ()

    run(scenario())


def test_a_manager_says_that_what_it_tells_is_old_while_it_does_not_follow_its_engine(tmp_path: Path) -> None:
    def is_old() -> list[bool]:
        return [standing.desired.old for standing in told if standing.desired is not None]

    told: list[Standing] = []

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            watcher = watch(fake.url)
            watcher.source.on_standing = told.append
            async with watcher:
                await watcher.until(lambda: is_old() == [False], "what it knows")
                fake.stop()
                await watcher.until(lambda: is_old()[-1], "that it is old")
                known = told[-1].desired
                assert known is not None
                assert known.services, "all of it"
                fake.start()
                await watcher.until(lambda: not is_old()[-1], "what it knows again")

    run(scenario())


async def _advised(watcher: Watcher, stopping: frozenset[str]) -> None:
    web = Service("id", "web", (Port(5353, 53, Protocol.UDP),), (), (("meshlb.balance", "roundrobin"),))
    watcher.source.advise(Desired((web,), (), stopping))


def test_a_worker_takes_advice(tmp_path: Path) -> None:
    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock") as fake:
            async with watch(fake.url) as watcher:
                await watcher.first()
                await watcher.state(BackendState.UP)
                await _advised(watcher, frozenset({WEB_TASK}))
                await watcher.state(BackendState.DRAINING)
                web = service(watcher.seen[-1])
                assert web is not None
                assert web.ports == (Port(5353, 53, Protocol.UDP),)
                assert web.labels == (("meshlb.balance", "roundrobin"),)
                sick = service(watcher.seen[-1], "sick")
                assert sick is not None, "a service that the advice does not name is still gossip's"

    run(scenario())


def test_advice_that_comes_while_the_last_is_taken_is_taken_next() -> None:
    session = docker_follow.Session(
        Engine(socket.socket, "nowhere"), docker_follow.Known(), print, namespace=Path("/"), interval=1.0
    )

    class Meanwhile(threading.Event):
        def is_set(self) -> bool:
            was = super().is_set()
            if not was:
                session.advise(Desired())
            return was

    session._advised = Meanwhile()
    assert not session._take_advice()
    assert session._take_advice()


def test_a_manager_goes_by_its_own_lists(tmp_path: Path) -> None:
    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                await watcher.first()
                await watcher.state(BackendState.UP)
                await watcher.listening(fake)
                await _advised(watcher, frozenset({WEB_TASK}))
                await watcher.polls(fake)
                await watcher.state(BackendState.UP)

    run(scenario())


def test_ports_that_gossip_shows_now_and_then_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "PORTS_STAY", PORTS_STAY)
    ports, both = Ports(), View((service_with("web", 80, 90),))
    assert ports.remember(both, 0) == both
    assert ports.remember(View((service_with("web", 80),)), 1) == both
    assert ports.remember(View(), 2).services == both.services, "not even a service that is gone for a moment"
    assert ports.remember(View((service_with("web", 90),)), PORTS_STAY + 2) == View(
        (service_with("web", 90),)
    )


def test_a_port_that_another_service_has_now_is_its_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "PORTS_STAY", PORTS_STAY)
    ports = Ports()
    ports.remember(View((service_with("old", 80),)), 0)
    new = View((service_with("new", 80),))
    assert ports.remember(new, 1) == new


def test_what_other_nodes_tell_does_not_wait_for_the_engine(tmp_path: Path) -> None:
    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock") as fake:
            async with watch(fake.url) as watcher:
                await watcher.first()
                web = service(watcher.seen[-1])
                assert web is not None
                other = next(task for task in web.tasks if task.node != watcher.seen[-1].node)
                for hang in (True, False):
                    fake.hang = hang
                    if not hang:
                        fake.stop()
                    watcher.source.learn(Remote({}, frozenset({other.node})))
                    await watcher.state(BackendState.SUSPECTED, other.id)
                    watcher.source.learn(Remote({other.node: {other.id: BackendState.DRAINING}}))
                    await watcher.state(BackendState.DRAINING, other.id)
                    watcher.source.learn(Remote())
                    await watcher.state(BackendState.UP, other.id)

    run(scenario())


def test_every_node_tells_the_states_of_its_own_tasks(tmp_path: Path) -> None:
    async def scenario() -> None:
        told: list[Standing] = []
        with FakeEngine(tmp_path / "docker.sock") as fake:
            watcher = watch(fake.url)
            watcher.source.on_standing = told.append
            async with watcher:
                await watcher.listening(fake)
                await watcher.until(lambda: told, "a standing")
                web = service(watcher.seen[-1])
                assert web is not None
                assert told[-1].hosts.items() >= {task.id: task.node for task in web.tasks}.items()
                assert told[-1].address == watcher.seen[-1].node
                assert set(told[-1].peers) == {node.address for node in watcher.seen[-1].nodes}
                assert told[-1].states == {}
                fake.emit(event("health_status: unhealthy"))
                await watcher.until(lambda: told[-1].states == {WEB_TASK: BackendState.DRAINING}, "sickness")
                fake.emit(event("health_status: healthy"))
                await watcher.until(lambda: told[-1].states == {}, "health")

    run(scenario())


def test_a_node_with_an_address_for_its_data_runs_its_own_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_follow, "CATCH_UP", 0.0)
    told: list[Standing] = []

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock") as fake:
            fake.answers["view"] = with_data_path(fake.view())
            watcher = watch(fake.url)
            watcher.source.on_standing = told.append
            async with watcher:
                await watcher.first()
                await watcher.until(lambda: told, "a standing")
                web = service(watcher.seen[-1])
                assert web is not None
                own = watcher.seen[-1].node
                assert {task.node for task in web.tasks} == {own, DATA["10.211.0.1"]}
                assert told[-1].hosts[WEB_TASK] == own == "10.211.0.2"
                assert told[-1].paths == {own: DATA[own]}
                assert any(DATA["10.211.0.1"] in problem for problem in watcher.seen[-1].problems)
                names = {data: node for node, data in DATA.items()}
                watcher.source.learn(Remote(paths=names))
                await watcher.until(lambda: told[-1].paths == DATA, "the other node's address")
                await watcher.until(
                    lambda: (
                        (web := service(watcher.seen[-1]))
                        and {task.node for task in web.tasks} == DATA.keys()
                    ),
                    "its tasks",
                )
                assert not any("data" in problem for problem in watcher.seen[-1].problems)
                assert set(told[-1].hosts.values()) == DATA.keys()
                assert told[-1].lost == frozenset(), "nobody is gone for having another name"
                fake.restart()
                await watcher.polls(fake)
                await watcher.well()
                assert told[-1].paths == DATA

    run(scenario())


def test_what_is_to_be_prepared_is_known_once_policies_are(tmp_path: Path) -> None:
    told: list[Standing] = []
    web = Service("id", "web", (), (), (("meshlb.client-address", "transparent"),))

    def wanted() -> Wanted | None:
        return told[-1].wanted

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock") as fake:
            watcher = watch(fake.url)
            watcher.source.on_standing = told.append
            async with watcher:
                await watcher.until(lambda: told, "a first word")
                assert wanted() is None
                watcher.source.advise(Desired((web,)))
                await watcher.until(lambda: wanted() and wanted() != Wanted(), "what is wanted")
                found = wanted()
                assert found is not None
                assert found.used
                assert WEB_TASK in [task for task, _ in found.tasks]
                watcher.source.advise(Desired(()))
                await watcher.until(lambda: wanted() == Wanted(), "that nothing is")

    run(scenario())


def test_what_was_advised_before_the_start_is_in_the_first_snapshot(tmp_path: Path) -> None:
    web = Service("id", "web", (Port(5353, 53, Protocol.UDP),), (), (("meshlb.balance", "source"),))
    asked: list[str] = []

    def recall(root: str) -> Desired:
        asked.append(root)
        return Desired((web,))

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock") as fake:
            fake.answers["info"] |= {"DockerRootDir": "/data"}
            watcher = watch(fake.url)
            watcher.source.recall = recall
            async with watcher:
                first = service(await watcher.first())
                assert first is not None
                assert web.ports[0] in first.ports, "gossip knows no protocols"
                assert Port(80, 8000) in first.ports, "and newer ports"
                assert first.labels == web.labels
                watcher.source.advise(Desired((Service("id", "web", (Port(80, 80),), ()),)))
                await watcher.until(
                    lambda: (found := service(watcher.seen[-1])) and found.ports == (Port(80, 80),), "news"
                )
                fake.stop()
                await watcher.until(lambda: not watcher.source.status().connected, "its absence")
                fake.start()
                await watcher.well()
                await watcher.polls(fake)
                found = service(watcher.seen[-1])
                assert found is not None
                assert found.ports == (Port(80, 80),), "what was heard since is not forgotten"

    run(scenario())
    assert asked == ["/data"]


def test_what_is_known_from_before_the_start_yields_to_gossip(tmp_path: Path) -> None:
    gone = Service("id", "blue", (Port(80, 1),), ())

    def claims(watcher: Watcher) -> set[str]:
        found = watcher.seen[-1].services
        return {service.name for service in found if 80 in [port.published for port in service.ports]}

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock") as fake:
            watcher = watch(fake.url)
            watcher.source.recall = lambda root: Desired((gone,))
            async with watcher:
                await watcher.first()
                assert claims(watcher) == {"web"}
                watcher.source.advise(Desired((gone,)))
                await watcher.until(lambda: claims(watcher) == {"web", "blue"}, "a manager's word")
                watcher.source.advise(Desired((gone,), old=True))
                await watcher.until(lambda: claims(watcher) == {"web"}, "its age")

    run(scenario())


def test_a_manager_that_has_lost_its_quorum_goes_by_what_it_knew_before(tmp_path: Path) -> None:
    web = Service("id", "web", (Port(5353, 53, Protocol.UDP),), (), ())

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            fake.answers["services"] = fake.answers["nodes"] = (500, {"message": "no quorum"})
            watcher = watch(fake.url)
            watcher.source.recall = lambda root: Desired((web,))
            async with watcher:
                first = service(await watcher.first())
                assert first is not None
                assert web.ports[0] in first.ports

    run(scenario())
