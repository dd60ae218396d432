"""The Swarm source against a scripted engine: what it yields, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, recorded

from meshlb.model import BackendState, Port, Protocol, Remote, Service, Snapshot, Standing
from meshlb.swarm import api as docker_api
from meshlb.swarm import follow as docker_follow
from meshlb.swarm import sdk as docker_engine
from meshlb.swarm import snapshots, targets
from meshlb.swarm import source as engine
from meshlb.swarm import view as docker_view
from meshlb.swarm.source import SwarmSource

WEB_TASK = "qkvwfv97zv8nr3hcz6agfyl3f"  # web.1 of the recorded view, on the recorded worker
NET, UTS = Path("/proc/self/ns/net"), Path("/proc/self/ns/uts")
NET_ID, UTS_ID = NET.stat().st_ino, UTS.stat().st_ino

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same behaviour, with shorter waits."""
    monkeypatch.setattr(engine, "BACKOFF", (0.02, 0.1))
    monkeypatch.setattr(engine, "RECHECK", 0.05)
    monkeypatch.setattr(engine, "DOUBT", 0.05)
    monkeypatch.setattr(docker_follow, "EVENTS_AGAIN", (0.02, 0.1))
    monkeypatch.setattr(targets, "PORTS_STAY", 0.0)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "docker.sock") as worker:
        yield worker


class Watcher:
    """Collects what a source yields, and waits for conditions on it."""

    def __init__(self, source: SwarmSource) -> None:
        self.source = source
        self.seen: list[Snapshot] = []
        self._task: asyncio.Task[None] | None = None

    async def _collect(self) -> None:
        async for snapshot in self.source.snapshots():
            self.seen.append(snapshot)

    async def __aenter__(self) -> Watcher:
        self._task = asyncio.create_task(self._collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.until(lambda: not engine_threads(), "the end of the threads")

    async def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(10):
                while not condition():  # noqa: ASYNC110  # bounded by the timeout
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(
                f"waited in vain for {what}; {self.source.status()} {self.seen[-1:]}"
            ) from None

    async def first(self) -> Snapshot:
        await self.until(lambda: self.seen, "a first snapshot")
        return self.seen[0]

    async def problem(self, text: str) -> None:
        await self.until(lambda: text in self.source.status().problem, f"the problem {text!r}")

    async def well(self) -> None:
        status = self.source.status
        await self.until(lambda: status().connected and not status().problem, "a source without a problem")

    async def listening(self, fake: FakeEngine) -> None:
        """The event stream is open, what was to be listed at its beginning is, and a poll has followed."""

        def ready() -> bool:
            rest = list(fake.asked)
            for word in ("/events", "/containers/json", "verbose"):
                rest = list(itertools.dropwhile(lambda target, word=word: word not in target, rest))  # type: ignore[misc]
            return bool(rest)

        await self.until(ready, "the event stream")

    async def state(self, state: BackendState, task: str = WEB_TASK) -> None:
        await self.until(lambda: state_of(self.seen[-1], task) is state, f"{task} to be {state}")

    async def polls(self, fake: FakeEngine, count: int = 3) -> None:
        """Let the source look at the engine `count` times more."""
        before = fake.count("verbose")
        await self.until(lambda: fake.count("verbose") >= before + count, "more polls")


def engine_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("meshlb-engine", "meshlb-events", "meshlb-lists")]


def service(snapshot: Snapshot, name: str = "web") -> Service | None:
    return next((service for service in snapshot.services if service.name == name), None)


def states(snapshot: Snapshot) -> set[BackendState]:
    return {found.state for service in snapshot.services for found in service.tasks}


def state_of(snapshot: Snapshot, task: str) -> BackendState | None:
    tasks = (found for service in snapshot.services for found in service.tasks)
    return next((found.state for found in tasks if found.id == task), None)


def event(action: str, task: str = WEB_TASK, **attributes: str) -> dict[str, Any]:
    found = {"com.docker.swarm.task.id": task, **attributes}
    return {"Type": "container", "Action": action, "Actor": {"ID": "c", "Attributes": found}}


def swarm_event(kind: str, action: str) -> dict[str, Any]:
    return {"Type": kind, "Action": action, "Actor": {"ID": "s", "Attributes": {}}, "scope": "swarm"}


def watch(url: str | None, interval: float = 0.02, namespace: Path = NET) -> Watcher:
    return Watcher(SwarmSource(url, poll_interval=interval, namespace=namespace))


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_worker(fake: FakeEngine) -> None:
    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            snapshot = await watcher.first()
            web = service(snapshot)
            assert web is not None
            assert web.ports == (Port(80, 8000), Port(82, 8000), Port(5353, 53))
            assert snapshot.namespace == str(NET)
            assert snapshot.namespace_id == NET_ID
            assert snapshot.problems == ()
            await watcher.well()
            assert watcher.source.status().node == "z01ica9cvwjcsogy3lb7ih70b"

    run(scenario())


def test_manager(tmp_path: Path) -> None:
    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url) as watcher:
                web = service(await watcher.first())
                assert web is not None
                assert Port(5353, 53, Protocol.UDP) in web.ports
                assert web.labels == (("meshlb.balance", "roundrobin"),)
                await watcher.well()
                assert watcher.source.status().cluster == "8nk5tujd1dxvbs6klg7hjjrgu"

    run(scenario())


def test_before_the_first_snapshot() -> None:
    status = SwarmSource("unix:///nowhere").status()
    assert (status.kind, status.connected, status.problem) == ("swarm", False, "not started yet")


def test_the_first_snapshot_waits_a_while_for_a_first_word(fake: FakeEngine) -> None:
    async def scenario(source: SwarmSource, word: bool) -> None:
        async with Watcher(source) as watcher:
            await watcher.polls(fake)
            await asyncio.sleep(0.05)
            if word:
                assert not watcher.seen
                source.learn(Remote())
            await watcher.first()

    for patience, word in ((60.0, True), (0.2, False)):
        source = SwarmSource(fake.url, poll_interval=0.02, namespace=NET)
        source.patience = patience
        run(scenario(source, word))


def test_yields_at_changes_only(fake: FakeEngine) -> None:
    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.first()
            await watcher.well()
            await watcher.polls(fake, 10)
            fake.answers["view"] = fake.view() | {"Peers": fake.view()["Peers"][::-1]}
            await watcher.polls(fake, 10)
            assert len(watcher.seen) == 1
            assert fake.connections <= 4  # polls, events, lists: kept alive
            changed = fake.view()
            del changed["Services"]["sick"]
            fake.answers["view"] = changed
            await watcher.until(lambda: len(watcher.seen) > 1, "a change")
            assert service(watcher.seen[-1], "sick") is None
            assert service(watcher.seen[-1]) == service(watcher.seen[0])

    run(scenario())


def test_unchanged_view_is_not_parsed(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = 0
    parse_view = docker_view.parse_view

    def counted(network: object) -> docker_view.View:
        nonlocal parsed
        parsed += 1
        return parse_view(network)

    monkeypatch.setattr(docker_view, "parse_view", counted)

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.first()
            await watcher.polls(fake, 5)
            assert parsed == 1

    run(scenario())


def test_slow_reader_gets_the_newest(fake: FakeEngine) -> None:
    async def scenario() -> None:
        source = SwarmSource(fake.url, poll_interval=0.02, namespace=NET)
        snapshots = source.snapshots()
        await anext(snapshots)
        watcher = Watcher(source)
        for count in (5, 4, 3):
            changed = fake.view()
            changed["Services"]["web"]["Tasks"] = changed["Services"]["web"]["Tasks"][:count]
            fake.answers["view"] = changed
            await watcher.polls(fake)
        web = service(await anext(snapshots))
        assert web is not None
        assert sum(task.state is BackendState.UP for task in web.tasks) == 3
        await snapshots.aclose()  # type: ignore[attr-defined]

    run(scenario())


def test_local_events_act_at_once(fake: FakeEngine) -> None:
    async def scenario() -> None:
        async with watch(fake.url, interval=30) as watcher:  # by polling alone, nothing would be seen in time
            await watcher.first()
            await watcher.listening(fake)
            for happens, state in (
                (event("kill", signal="1"), BackendState.UP),
                (event("health_status: unhealthy"), BackendState.DRAINING),
                (event("health_status: healthy"), BackendState.UP),
                (event("kill", signal="15"), BackendState.DRAINING),
                (event("kill", signal="9"), BackendState.DOWN),
                (event("start"), BackendState.UP),
                (event("die"), BackendState.DOWN),
            ):
                fake.emit(happens)
                await watcher.state(state)

    run(scenario())


def test_marks_go_with_their_task(fake: FakeEngine) -> None:
    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.first()
            await watcher.listening(fake)
            fake.emit(event("die"))
            await watcher.state(BackendState.DOWN)
            with_task, without = fake.view(), fake.view()
            tasks = without["Services"]["web"]["Tasks"]
            without["Services"]["web"]["Tasks"] = [task for task in tasks if WEB_TASK not in task["Name"]]
            fake.answers["view"] = without
            await watcher.until(lambda: state_of(watcher.seen[-1], WEB_TASK) is None, "the task to be gone")
            await watcher.polls(fake)
            fake.answers["view"] = with_task
            await watcher.state(BackendState.UP)

    run(scenario())


def test_event_storm_with_garbage(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_follow, "WAITING_EVENTS", 20)

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.first()
            await watcher.listening(fake)
            lists = fake.count("/containers/json")
            labels = {"com.docker.swarm.task.id": WEB_TASK}
            fake.answers["containers"] = [{"State": "exited", "Status": "", "Labels": labels}]
            for number in range(3000):
                fake.emit(event("die", task=f"other{number}"))
                fake.emit(b"no json\n")
            await watcher.state(BackendState.DOWN)
            await watcher.until(lambda: fake.count("/containers/json") > lists, "another list")

    run(scenario())


def test_containers_are_listed_when_events_begin_anew(fake: FakeEngine) -> None:
    labels = {"com.docker.swarm.task.id": WEB_TASK}

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.first()
            await watcher.listening(fake)
            fake.answers["containers"] = [{"State": "running", "Status": "Up (unhealthy)", "Labels": labels}]
            fake.end_events()
            await watcher.state(BackendState.DRAINING)
            fake.answers["containers"] = [{"State": "exited", "Status": "Exited (1)", "Labels": labels}]
            fake.end_events()
            await watcher.state(BackendState.DOWN)
            await watcher.well()
            assert len(watcher.seen) == 3

    run(scenario())


def test_containers_that_are_listed_slowly_or_never_hold_up_nothing(fake: FakeEngine) -> None:
    async def scenario() -> None:
        fake.mute = {"containers"}
        async with watch(fake.url) as watcher:
            await watcher.first()
            await watcher.problem("the health of local tasks is known late")
            assert watcher.source.status().connected
            await watcher.polls(fake)
            assert watcher.source.status().connected

    run(scenario())


def test_containers_are_asked_for_again_after_a_failure(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_follow, "LISTS_EVERY", 0.05)
    labels = {"com.docker.swarm.task.id": WEB_TASK}

    async def scenario() -> None:
        fake.answers["containers"] = (500, {"message": "busy"})
        async with watch(fake.url) as watcher:
            await watcher.listening(fake)
            await watcher.problem("the health of local tasks is known late")
            streams = fake.count("/events")
            fake.answers["containers"] = [{"State": "running", "Status": "Up (unhealthy)", "Labels": labels}]
            await watcher.state(BackendState.DRAINING)
            await watcher.well()
            assert fake.count("/events") == streams

    run(scenario())


def test_what_happens_while_containers_are_listed_is_not_forgotten(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_api, "TIMEOUT", 30)

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.listening(fake)
            asked = fake.count("/containers/json")
            fake.held["containers"] = answered = threading.Event()
            fake.end_events()
            await watcher.until(lambda: fake.count("/containers/json") > asked, "the request")
            await watcher.until(lambda: fake.listeners, "the event stream")
            fake.emit(event("die"))
            await watcher.state(BackendState.DOWN)
            answered.set()
            await watcher.polls(fake, 5)
            assert state_of(watcher.seen[-1], WEB_TASK) is BackendState.DOWN

    run(scenario())


def test_engine_without_events(fake: FakeEngine) -> None:
    """A proxy before the socket that forbids /events, for example."""

    async def scenario() -> None:
        fake.answers["events"] = (403, {"message": "forbidden"})
        async with watch(fake.url) as watcher:
            await watcher.first()
            await watcher.problem("changes are seen by polling alone")
            fake.answers["view"] = fake.view() | {"Services": {"": fake.view()["Services"][""]}}
            await watcher.until(lambda: not watcher.seen[-1].services, "the change")
            del fake.answers["events"]
            await watcher.well()

    run(scenario())


def test_lists_follow_events(tmp_path: Path) -> None:
    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            async with watch(fake.url, interval=30) as watcher:
                await watcher.first()
                await watcher.listening(fake)
                await watcher.well()
                services = recorded()["services"]
                services[0]["Spec"]["Labels"] = {"meshlb.balance": "other"}
                fake.answers["services"] = services
                fake.emit(swarm_event("service", "update"))
                name = services[0]["Spec"]["Name"]

                def labels() -> object:
                    found = service(watcher.seen[-1], name)
                    return found and found.labels

                await watcher.until(lambda: labels() == (("meshlb.balance", "other"),), "the new label")

    run(scenario())


def test_new_service_is_listed_before_it_is_told(tmp_path: Path) -> None:
    """Gossip may be ahead of the event; a UDP port must not begin its life as TCP."""

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            dns = json.loads(json.dumps(recorded()["services"][0]))
            dns["Spec"]["Name"], dns["ID"] = "dns", "dnsid"
            udp = {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 53, "PublishMode": "ingress"}
            dns["Endpoint"]["Ports"] = [udp]
            async with watch(fake.url) as watcher:
                await watcher.first()
                await watcher.listening(fake)
                await asyncio.sleep(
                    docker_follow.HOT + 0.1
                )  # lists that are so fresh are not asked for again
                fake.answers["services"] = [*recorded()["services"], dns]
                view = fake.view()
                view["Services"]["dns"] = {"Ports": ["Target: 53, Publish: 53"], "Tasks": []}
                fake.answers["view"] = view
                await watcher.until(lambda: service(watcher.seen[-1], "dns"), "the service")
            ports = [found.ports for snapshot in watcher.seen if (found := service(snapshot, "dns"))]
            assert ports == [(Port(53, 53, Protocol.UDP),)]

    run(scenario())


def test_manager_without_quorum_keeps_its_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_follow, "LISTS_EVERY", 0.02)
    told: list[Standing] = []

    def is_old() -> bool:
        return told[-1].desired is not None and told[-1].desired.old

    async def scenario() -> None:
        with FakeEngine(tmp_path / "docker.sock", manager=True) as fake:
            watcher = watch(fake.url)
            watcher.source.on_standing = told.append
            async with watcher:
                await watcher.first()
                await watcher.until(lambda: told and not is_old(), "what it knows")
                fake.answers["services"] = (503, {"message": "The swarm does not have a leader."})
                await watcher.problem("ports and labels may be out of date")
                await watcher.until(is_old, "that it is old")
                fake.set_manager(manager=False)  # demoted
                await watcher.until(lambda: Port(5353, 53) in web_ports(watcher), "the worker's knowledge")
                fake.set_manager(manager=True)  # promoted
                await watcher.until(
                    lambda: Port(5353, 53) not in web_ports(watcher), "the manager's knowledge"
                )
                await watcher.well()
                assert len(watcher.seen) == 3

    def web_ports(watcher: Watcher) -> tuple[Port, ...]:
        found = service(watcher.seen[-1])
        assert found is not None
        return found.ports

    run(scenario())


def test_engine_that_restarts(fake: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.first()
            await watcher.well()
            fake.stop()
            await watcher.problem("nothing listens at")
            fake.path.unlink()
            await watcher.problem("no Docker Engine at")
            assert not watcher.source.status().connected
            fake.version = "1.52"  # it was upgraded
            fake.answers["version"]["ApiVersion"] = "1.52"
            fake.answers["view"] = fake.view() | {"Services": {"": fake.services[""]}}
            fake.start()
            await watcher.well()
            await watcher.until(lambda: not watcher.seen[-1].services, "what is new since")
            assert len(watcher.seen) == 2

    with caplog.at_level(logging.INFO, "meshlb"):
        run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "what was last known stays in service" in caplog.messages[0]
    assert caplog.messages[1] == "following the Docker Engine again"


def break_view(answer: object) -> Callable[[FakeEngine], None]:
    return lambda fake: fake.answers.update(view=answer)


HUGE = b'{"x":"' + b"x" * (1 << 20) + b'"}'
FAULTS: dict[str, tuple[Callable[[FakeEngine], None], str]] = {
    "hangs": (lambda fake: setattr(fake, "hang", True), "does not answer"),
    "500": (break_view((500, {"message": "dispatcher is stopped"})), "500: dispatcher is stopped"),
    "500 without a reason": (break_view((500, b"\xff\xfe")), "500: no reason given"),
    "no JSON": (break_view(b"<html>"), "not JSON"),
    "nothing": (break_view(b""), "not JSON"),
    "deep": (break_view(b"[" * 200_000), "not JSON"),
    "null": (break_view(None), "is not one"),
    "list": (break_view([]), "is not one"),
    "empty": (break_view({}), "is not one"),
    "services": (break_view({"Ingress": True, "Services": 5}), "no readable services"),
    "huge": (break_view(HUGE), "more than"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_engine_that_misbehaves(
    fake: FakeEngine, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_api, "LARGEST", 1 << 18)
    if fault == "hangs":
        monkeypatch.setattr(docker_api, "TIMEOUT", 0.5)
    harm, problem = FAULTS[fault]
    view = fake.view()

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            first = await watcher.first()
            await watcher.well()
            harm(fake)
            await watcher.problem(problem)
            await asyncio.sleep(0.2)
            assert watcher.seen == [first]
            fake.answers["view"] = view
            if fake.hang:
                fake.hang = False
                fake.restart()
            await watcher.well()
            assert watcher.seen == [first]

    with caplog.at_level(logging.INFO, "meshlb"):
        run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.parametrize(
    "reply", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_something_else_listens(tmp_path: Path, reply: bytes) -> None:
    path = tmp_path / "docker.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                with client:
                    client.recv(4096)
                    client.sendall(reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    async def scenario() -> None:
        async with watch(f"unix://{path}") as watcher:
            await watcher.problem(str(path)) if b"{" not in reply else await watcher.problem("not JSON")
            assert watcher.seen == []

    try:
        run(scenario())
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ({}, "does not answer like a Docker Engine"),
        ({"ApiVersion": "../../etc"}, "does not answer like"),
        (7, "not answer"),
    ],
)
def test_not_an_engine(fake: FakeEngine, version: object, problem: str) -> None:
    async def scenario() -> None:
        fake.answers["version"] = version
        async with watch(fake.url) as watcher:
            await watcher.problem(problem)

    run(scenario())


def test_no_socket(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watch(f"unix://{tmp_path}/docker.sock") as watcher:
            await watcher.problem(f"no Docker Engine at {tmp_path}/docker.sock: start it")
            assert watcher.seen == []

    run(scenario())


def test_permission_denied(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(docker_engine, "dial_unix", refuse)

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.problem(
                f"permission denied on {fake.path}: run as root or add the user to group docker"
            )

    run(scenario())


def test_default_engine_needs_no_sdk() -> None:
    """8 MB and a tenth of a second that a node's own agent does not spend."""
    code = (
        "import sys; from meshlb.swarm import sdk\n"
        "assert sdk.find().address == '/var/run/docker.sock'\n"
        "import meshlb.swarm.source; assert 'docker' not in sys.modules and 'requests' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_docker_host_is_honoured(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", fake.url)

    async def scenario() -> None:
        async with watch(None) as watcher:
            await watcher.first()

    run(scenario())


def test_docker_host_that_is_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "nonsense://x")

    async def scenario() -> None:
        async with watch(None) as watcher:
            await watcher.problem("check DOCKER_HOST")

    run(scenario())


INACTIVE = {"Name": "eng1", "Swarm": {"LocalNodeState": "inactive", "NodeID": "", "NodeAddr": ""}}


def test_node_that_is_in_no_swarm_and_joins(fake: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        worker = fake.answers["info"]
        fake.answers["info"] = INACTIVE
        async with watch(fake.url) as watcher:
            assert await watcher.first() == Snapshot()
            await watcher.problem("not in a swarm: run meshlb init or meshlb join")
            assert watcher.source.status().connected
            fake.answers["info"] = worker
            await watcher.well()
            await watcher.until(lambda: watcher.seen[-1].services, "services")

    with caplog.at_level(logging.INFO, "meshlb"):
        run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_node_that_leaves(fake: FakeEngine) -> None:
    """As recorded: first the network is there but empty, then it is gone."""

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.first()
            worker, alone = fake.answers["info"], {**fake.view(), "Services": None}
            fake.answers["info"] = INACTIVE
            fake.answers["view"] = {**fake.view(), "Peers": [], "Services": None}
            await watcher.problem("not in a swarm")
            fake.answers["view"] = (404, {"message": "network p55 not found"})
            await watcher.until(lambda: watcher.seen[-1] == Snapshot(), "the empty snapshot")
            assert len(watcher.seen) == 2
            assert watcher.source.status().node == ""
            fake.answers.update(info=worker, view=alone)  # it joins another swarm, and hears nothing yet
            await watcher.well()
            await watcher.until(lambda: watcher.seen[-1].nodes, "the other swarm")
            assert watcher.seen[-1].services == ()

    run(scenario())


def test_engine_that_shuts_down_is_not_believed(fake: FakeEngine) -> None:
    """As recorded: it closes its listener, and says "inactive" on the connections that it still has."""

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            first = await watcher.first()
            await watcher.well()
            aside = fake.path.with_suffix(".aside")
            fake.path.rename(aside)
            worker, fake.answers["info"] = fake.answers["info"], INACTIVE
            view = fake.view()
            fake.answers["view"] = {**view, "Peers": [], "Services": None}
            await watcher.problem("no Docker Engine at")
            fake.answers.update(info=worker, view=view)
            aside.rename(fake.path)
            await watcher.well()
            assert watcher.seen == [first]

    run(scenario())


def test_engine_that_has_not_heard_of_the_others_yet(fake: FakeEngine) -> None:
    """As recorded after a manager's restart: its view knows itself alone for up to half a minute."""

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.first()
            full = fake.view()
            alone = fake.view()
            own = "10.211.0.2"
            alone["Peers"] = [peer for peer in alone["Peers"] if peer["IP"] == own]
            endpoints = alone["Services"][""]["Tasks"]
            endpoints[:] = [endpoint for endpoint in endpoints if endpoint["Info"]["Host IP"] == own]
            del alone["Services"]["web"]
            del alone["Services"]["sick"]
            fake.stop()
            fake.answers["view"] = alone
            await watcher.problem("nothing listens")
            fake.start()
            await watcher.well()
            await watcher.polls(fake)
            web = service(watcher.seen[-1])
            assert web is not None
            assert {task.node for task in web.tasks} == {"10.211.0.1"}
            fake.answers["view"] = full
            await watcher.until(lambda: watcher.seen[-1] == watcher.seen[0], "the whole view")
            fake.answers["view"] = alone  # lost anew: kept for connections that live
            await watcher.until(
                lambda: states(watcher.seen[-1]) == {BackendState.SUSPECTED}, "the loss of the others"
            )
            fake.answers["view"] = full
            await watcher.until(lambda: watcher.seen[-1] == watcher.seen[0], "the whole view again")

    run(scenario())


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        ({"LocalNodeState": "locked"}, "locked: run docker swarm unlock"),
        (
            {"LocalNodeState": "error", "Error": "remote CA does not match"},
            "has failed (remote CA does not match)",
        ),
        ({"LocalNodeState": "pending"}, "not a working part of its swarm yet"),
    ],
)
def test_swarm_that_is_not_ready(fake: FakeEngine, info: dict[str, str], problem: str) -> None:
    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            first = await watcher.first()
            worker, view = fake.answers["info"], fake.view()
            fake.answers["info"] = {"Swarm": info}
            fake.answers["view"] = (404, {"message": "network p55 not found"})
            await watcher.problem(problem)
            assert watcher.source.status().connected
            fake.answers.update(info=worker, view=view)
            await watcher.well()
            assert watcher.seen == [first]

    run(scenario())


def test_no_ingress_network(fake: FakeEngine) -> None:
    async def scenario() -> None:
        networks, fake.answers["networks"] = fake.answers["networks"], []
        async with watch(fake.url) as watcher:
            await watcher.problem("docker network create --ingress --driver overlay ingress")
            assert await watcher.first() == Snapshot(pending=True)
            fake.answers["networks"] = networks
            await watcher.well()
            await watcher.until(lambda: watcher.seen[-1].services, "services")
            fake.answers["networks"] = []
            view, fake.answers["view"] = fake.view(), (404, {"message": "network p55 not found"})
            await watcher.problem("docker network create --ingress --driver overlay ingress")
            assert len(watcher.seen) == 2  # the last snapshot stays
            fake.answers.update(networks=networks, view=view)
            await watcher.well()

    run(scenario())


def test_namespace_that_is_replaced(fake: FakeEngine, tmp_path: Path) -> None:
    namespace = tmp_path / "ingress_sbox"

    def becomes(target: Path) -> None:
        fresh = namespace.with_suffix(".new")
        fresh.symlink_to(target)
        fresh.rename(namespace)

    async def scenario() -> None:
        async with watch(fake.url, namespace=namespace) as watcher:
            first = await watcher.first()
            assert first.namespace_id == 0
            assert "is not there" in first.problems[0]
            becomes(NET)
            await watcher.until(lambda: watcher.seen[-1].namespace_id == NET_ID, "the namespace")
            assert watcher.seen[-1].problems == ()
            becomes(tmp_path / "gone")
            await watcher.polls(fake)
            becomes(tmp_path / "docker.sock")  # a file, and no namespace
            await watcher.polls(fake)
            assert len(watcher.seen) == 2
            becomes(UTS)
            await watcher.until(lambda: watcher.seen[-1].namespace_id == UTS_ID, "the other one")

    run(scenario())


def test_engine_that_closes_its_connections(fake: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    """Proxies before the socket do so after some requests or seconds: no failure, and no line in the log."""

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            await watcher.first()
            await watcher.well()
            server = fake._server
            assert server is not None
            server.break_connections()
            await watcher.polls(fake)
            await watcher.well()
            assert len(watcher.seen) == 1

    with caplog.at_level(logging.INFO, "meshlb"):
        run(scenario())
    assert caplog.records == []


@pytest.mark.parametrize("word", ["version", "info", "networks", "view", "events", "services"])
def test_cancelled_while_the_engine_hangs(
    fake: FakeEngine, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_api, "TIMEOUT", 30)
    fake.mute.add(word)

    async def scenario() -> None:
        source = SwarmSource(fake.url, poll_interval=0.02, namespace=NET)
        watcher = Watcher(source)
        task = asyncio.create_task(watcher._collect())
        asked = "verbose" if word == "view" else f"/{word}"
        await watcher.until(lambda: fake.count(asked), f"the request for {word}")
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(task, return_exceptions=True)
        await watcher.until(lambda: not engine_threads(), "the end of the threads")

    run(scenario())


def test_process_ends_while_the_engine_hangs(fake: FakeEngine) -> None:
    fake.mute.add("view")
    program = (
        "import asyncio, sys\n"
        "from meshlb.swarm.source import SwarmSource\n"
        "async def main():\n"
        "    async with asyncio.timeout(0.5):\n"
        "        async for _ in SwarmSource(sys.argv[1]).snapshots(): pass\n"
        "try: asyncio.run(main())\n"
        "except TimeoutError: print('over')\n"
    )
    python = shutil.which(sys.executable) or sys.executable
    done = subprocess.run(
        [python, "-c", program, fake.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={**os.environ},
    )
    assert (done.stdout, done.stderr) == ("over\n", "")


def test_defect_of_ours_does_not_end_the_source(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = snapshots.snapshot

    def defective(*_: object) -> Snapshot:
        raise RuntimeError("a defect")

    async def scenario() -> None:
        async with watch(fake.url) as watcher:
            monkeypatch.setattr(snapshots, "snapshot", defective)
            await watcher.problem("the agent's log says why")
            monkeypatch.setattr(snapshots, "snapshot", snapshot)
            await watcher.first()
            await watcher.well()

    run(scenario())
    assert sum(record.exc_info is not None for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("cost", "when", "seconds"),
    [
        (0.0, {}, 0.25),
        (0.002, {}, 0.25),
        (0.02, {}, 0.8),
        (1.0, {}, 2.0),
        (0.002, {"hot": True}, 0.05),
        (0.02, {"hot": True}, 0.08),
        (0.02, {"stirring": True}, 0.5),
        (1.0, {"hot": True, "stirring": True}, 0.5),
    ],
)
def test_looks_that_cost_much_are_further_apart(cost: float, when: dict[str, bool], seconds: float) -> None:
    assert docker_follow.pause(0.25, cost, **when) == pytest.approx(seconds)
