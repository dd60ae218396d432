"""Who has the agent's socket, and who may ask there."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshlb.cli import main
from meshlb.cli.ask import ask
from meshlb.errors import ConfigError, MeshError
from meshlb.handover import agent_socket
from meshlb.handover import giving as handover
from meshlb.handover.agent_socket import AgentSocket, RunningError, claim, connect, peer
from meshlb.handover.giving import Conversation, HandoverError
from meshlb.handover.succession import ASKING, Heirs, Predecessor
from meshlb.ports.inherited import Named


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.sock"


@pytest.fixture
def place(path: Path) -> Iterator[AgentSocket]:
    with contextlib.closing(claim(path)) as place:
        yield place


@pytest.mark.parametrize(("group", "mode"), [("own", 0o660), ("none", 0o600)])
def test_the_directory_and_the_socket_are_for_root_and_group_docker(
    path: Path, monkeypatch: pytest.MonkeyPatch, group: str, mode: int
) -> None:
    def of(name: str) -> grp.struct_group:
        assert name == "docker"
        if group == "none":
            raise KeyError(name)
        return grp.getgrgid(os.getegid())

    monkeypatch.setattr("meshlb.handover.agent_socket.ENGINE", path / "nowhere")
    monkeypatch.setattr("meshlb.handover.agent_socket.grp.getgrnam", of)
    with contextlib.closing(claim(path)):
        assert path.parent.stat().st_mode & 0o777 == 0o750
        assert path.stat().st_mode & 0o777 == mode
        assert path.stat().st_gid == os.getegid()
        assert [each.name for each in path.parent.iterdir()] == ["agent.sock"]


@pytest.mark.parametrize(("mode", "own"), [(0o660, 0o660), (0o600, 0o600)])
def test_where_the_engine_is_roots_alone_so_is_the_agent(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, own: int
) -> None:
    """A container does not know the names of its node's groups."""
    engine = path.parents[1] / "docker.sock"
    engine.touch()
    engine.chmod(mode)
    monkeypatch.setattr("meshlb.handover.agent_socket.ENGINE", engine)
    monkeypatch.setattr("meshlb.handover.agent_socket.grp.getgrnam", {}.__getitem__)
    with contextlib.closing(claim(path)):
        assert path.stat().st_mode & 0o777 == own


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another group")
def test_a_directory_of_our_own_from_before_becomes_the_groups(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = path.parents[1] / "docker.sock"
    engine.touch()
    engine.chmod(0o660)
    os.chown(engine, -1, 4711)
    path.parent.mkdir(0o2750)
    for name, value in {"ENGINE": engine, "OWN": path.parent}.items():
        monkeypatch.setattr(agent_socket, name, value)
    monkeypatch.setattr("meshlb.handover.agent_socket.grp.getgrnam", {}.__getitem__)
    with contextlib.closing(claim(path)):
        assert (path.parent.stat().st_gid, path.stat().st_gid) == (4711, 4711)


def test_a_second_one_is_refused_with_the_firsts_process(place: AgentSocket, path: Path) -> None:
    with pytest.raises(RunningError, match=f"as process {os.getpid()}: start this one with --replace"):
        claim(path)


def test_one_of_two_that_start_at_once_is_refused(path: Path) -> None:
    outcomes: list[AgentSocket | RunningError] = []

    def start() -> None:
        try:
            outcomes.append(claim(path))
        except RunningError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (only,) = [each for each in outcomes if isinstance(each, AgentSocket)]
    only.close()
    assert len(outcomes) == 8


@pytest.mark.parametrize("kind", ["socket", "file"])
def test_what_a_dead_one_has_left_is_replaced(path: Path, kind: str) -> None:
    path.parent.mkdir()
    if kind == "file":
        path.touch()
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(str(path))
            dead.listen()
    assert connect(path) is None
    with contextlib.closing(claim(path)):
        other = connect(path)
        assert other is not None
        other.close()
    assert not path.exists()


def test_the_one_before_leaves_the_path_to_the_one_after(place: AgentSocket, path: Path) -> None:
    after = claim(path, after=True)
    place.close()
    other = connect(path)
    assert other is not None
    other.close()
    after.close()
    assert not path.exists()


def test_one_that_does_not_accept_is_told_after_a_while(
    place: AgentSocket, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshlb.handover.agent_socket.CONNECT", 0.1)

    def fill(stack: contextlib.ExitStack) -> None:
        for _ in range(20):
            sock = connect(path)
            assert sock is not None
            stack.enter_context(sock)

    with contextlib.ExitStack() as stack, pytest.raises(RunningError, match="does not answer"):
        fill(stack)


@pytest.mark.parametrize("name", ["/dev/null/agent.sock", "x" * 200 + "/agent.sock"])
def test_a_path_that_cannot_be_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"--socket .*: .*name another path, or off"):
        claim(tmp_path / name)


class Serving:
    """Has nothing to serve."""

    def __init__(self) -> None:
        self.still = asyncio.Lock()
        self.done: list[str] = []

    async def kept(self) -> tuple[Named, ...]:
        return ()

    async def release(self) -> None:
        self.done.append("release")

    async def resume(self) -> None:
        self.done.append("resume")

    async def leave(self) -> None:
        self.done.append("leave")

    async def order(self, verb: str, backend: str, force: bool) -> str:
        if backend == "bug":
            raise ValueError("odd")
        if not force:
            raise MeshError(f"{backend} is the last")
        return f"{verb} {backend}"

    def ordered(self) -> dict[str, str]:
        return {"t1": "paused"}


def test_another_user_is_refused(place: AgentSocket, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "peer", lambda sock: (peer(sock)[0], 4711))

    async def main() -> None:
        heirs = asyncio.create_task(Heirs(Serving(), list).run(place.listener))
        sock = await asyncio.to_thread(agent_socket.connect, path)
        assert sock is not None
        with Conversation(sock) as talk:
            talk.say("hello")
            with pytest.raises(HandoverError, match="user 4711 may not ask this"):
                await asyncio.to_thread(talk.take)
        heirs.cancel()
        await asyncio.wait([heirs])

    asyncio.run(main())


def test_who_knows_late_what_to_serve_is_heard_nevertheless(
    place: AgentSocket, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has found the agent before it, and says nothing for longer than that listens to the silent."""
    monkeypatch.setattr("meshlb.handover.succession.SOON", 0.1)

    async def main() -> None:
        heirs = asyncio.create_task(Heirs(Serving(), list).run(place.listener))
        found = await asyncio.to_thread(Predecessor.find, path)
        assert found is not None
        await asyncio.sleep(0.3)
        assert await found.take() == []
        assert found.orders == {"t1": "paused"}
        found.close()
        heirs.cancel()
        await asyncio.wait([heirs])

    asyncio.run(main())


def test_one_that_has_ended_meanwhile_hands_nothing_over(place: AgentSocket, path: Path) -> None:
    found = Predecessor.find(path)
    assert found is not None
    place.close()
    with contextlib.closing(found), pytest.raises(HandoverError, match=rf"process {os.getpid()}\) has ended"):
        asyncio.run(found.take())


def test_an_end_breaks_a_handover_off_that_is_not_decided(place: AgentSocket, path: Path) -> None:
    serving = Serving()

    async def main() -> None:
        heirs = asyncio.create_task(Heirs(serving, list).run(place.listener))
        sock = await asyncio.to_thread(agent_socket.connect, path)
        assert sock is not None
        with Conversation(sock) as talk:
            talk.say("hello")
            assert await asyncio.to_thread(talk.take) == []
            assert talk.orders == {"t1": "paused"}
            heirs.cancel()
            await asyncio.wait([heirs])
            with pytest.raises(HandoverError, match="broken the handover off"):
                await asyncio.to_thread(talk.hear, "released")

    asyncio.run(main())
    assert serving.done == []


def answered(path: Path, place: AgentSocket, verb: str, backend: str, force: object) -> dict[str, object]:
    """What the agent answers to an order."""

    async def main() -> dict[str, object]:
        heirs = asyncio.create_task(Heirs(Serving(), list).run(place.listener))
        try:
            sock = await asyncio.to_thread(agent_socket.connect, path)
            assert sock is not None
            with Conversation(sock) as talk:
                talk.say("order", verb=verb, backend=backend, force=force)
                return await asyncio.to_thread(talk.hear, "answer")
        finally:
            heirs.cancel()
            await asyncio.wait([heirs])

    return asyncio.run(main())


def test_orders_are_answered(place: AgentSocket, path: Path) -> None:
    done = answered(path, place, "drain", "web.1", True)
    assert (done["good"], done["text"]) == (True, "drain web.1")
    refused = answered(path, place, "drain", "web.1", "yes")
    assert (refused["good"], refused["text"]) == (False, "web.1 is the last")
    assert "a bug in meshlb" in str(answered(path, place, "drain", "bug", True)["text"])


def test_whoever_may_connect_may_ask_for_a_command(
    place: AgentSocket, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group docker has no right to send signals, and no number of a process in another container."""
    monkeypatch.setattr(handover, "peer", lambda sock: (0, 4711))

    async def main() -> None:
        heirs = Heirs(Serving(), list, {"reload": lambda: "as you like"})
        running = asyncio.create_task(heirs.run(place.listener))
        assert await asyncio.to_thread(ask, path, "reload") == "as you like"
        with pytest.raises(MeshError, match="says what no agent of meshlb"):
            await asyncio.to_thread(ask, path, "reboot")
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(main())


def test_an_agent_in_a_container_is_upgraded_by_its_image(
    place: AgentSocket, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "peer", lambda sock: (0, 0))
    refused = CliRunner().invoke(main, ["agent", "upgrade", "--socket", str(path)])
    assert refused.exit_code == 1
    assert refused.stderr.startswith(
        "meshlb: the agent is a process of another container: `meshlb agent deploy "
    )


def test_who_only_looks_who_is_there_is_not_worth_a_line(
    place: AgentSocket, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor are those who hang up when there are too many, and the next one is heard."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        heirs = Heirs(Serving(), list)
        running = asyncio.create_task(heirs.run(place.listener))
        for _ in range(20):
            sock = await asyncio.to_thread(agent_socket.connect, path)
            assert sock is not None
            sock.close()
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(main())
    assert caplog.text == ""


def test_few_may_ask_at_a_time(place: AgentSocket, path: Path) -> None:
    async def main() -> None:
        running = asyncio.create_task(Heirs(Serving(), list).run(place.listener))
        silent = []
        for _ in range(ASKING + 1):
            sock = await asyncio.to_thread(agent_socket.connect, path)
            assert sock is not None
            silent.append(Conversation(sock))
        with pytest.raises(HandoverError, match="too many ask at this moment"):
            await asyncio.to_thread(silent[-1].hear, "answer")
        running.cancel()
        await asyncio.wait([running])
        for each in silent:
            each.close()

    asyncio.run(main())
