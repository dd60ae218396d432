"""What is written down of labs, and who may change them."""

from __future__ import annotations

import fcntl
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from meshlb.lab import LabBusyError, LabError, process, state
from meshlb.lab.state import State


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories of our own in place of /run and /var/lib, and no processes."""
    monkeypatch.setattr(state, "STATE", tmp_path / "run")
    monkeypatch.setattr(state, "HOME", tmp_path / "lib")
    monkeypatch.setattr(process, "find", list)
    return tmp_path


PLAN = State("a", IPv4Network("198.18.3.0/24"), 3, "overlay2")


def test_a_plan_is_read_as_it_was_written() -> None:
    with state.locked("a"):
        PLAN.save()
    assert state.load("a") == PLAN
    assert state.names() == ["a"]
    assert state.subnets() == [PLAN.subnet]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"subnet": "x", "nodes": 1, "storage_driver": "vfs"}',
        '{"subnet": "198.18.3.0/24"}',
    ],
)
def test_a_broken_plan_is_none(directory: Path, text: str) -> None:
    (directory / "run/a").mkdir(parents=True)
    (directory / "run/a/lab.json").write_text(text)
    assert state.load("a") is None


def test_a_forgotten_lab_leaves_no_file(directory: Path) -> None:
    (directory / "lib/a/node1").mkdir(parents=True)
    with state.locked("a"):
        PLAN.save()
    state.forget("a")
    assert not list(directory.iterdir())


def test_other_labs_stay(directory: Path) -> None:
    for name in ("a", "b"):
        with state.locked(name):
            (directory / "lib" / name).mkdir(parents=True)
    state.forget("a")
    assert state.names() == ["b"]


def test_only_one_changes_a_lab() -> None:
    with (
        state.locked("a"),
        pytest.raises(LabBusyError, match="lab a is being changed by another process"),
        state.locked("a"),
    ):
        pass
    with state.locked("a"), state.locked("b"):
        pass


def test_a_lock_on_a_removed_directory_counts_for_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    calls: list[int] = []

    def flock(fd: int, how: int) -> None:
        if not calls:  # the holder before us removes the lab between our open and our lock
            state.forget("a")
        calls.append(how)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with state.locked("a"):
        assert len(calls) == 2
        assert (directory / "run/a").is_dir()


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "..", "a b", "a" * 41, "ä"])
def test_a_name_that_cannot_be_a_directory_is_refused(name: str) -> None:
    with pytest.raises(LabError, match=r"is not 1 to 40 lower-case letters, digits"):
        state.check_name(name)


def test_the_usual_name_needs_no_option() -> None:
    assert (state.option("meshlb"), state.option("x")) == ("", " --name x")
