"""What is written down of a lab: its subnet and size, and who may change it just now."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from meshlb.errors import LabBusyError, LabError
from meshlb.lab import process

STATE = Path("/run/meshlb-lab")
HOME = Path("/var/lib/meshlb-lab")
DEFAULT_NAME = "meshlb"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)


@dataclass(frozen=True, slots=True)
class State:
    """A lab's plan. `home` holds what its nodes write, each in a directory of its own."""

    name: str
    subnet: ipaddress.IPv4Network
    nodes: int
    storage_driver: str

    def save(self) -> None:
        """Write it down, so that other commands find the lab."""
        plan = {"subnet": str(self.subnet), "nodes": self.nodes, "storage_driver": self.storage_driver}
        file = STATE / self.name / "lab.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(plan))
        partial.rename(file)


def check_name(name: str) -> None:
    """LabError unless the name can be a directory, a control group and an argument."""
    if not _NAME.fullmatch(name):
        raise LabError(f'--name: "{name}" is not 1 to 40 lower-case letters, digits and "-"')


def option(name: str) -> str:
    """What names this lab in a command that we suggest."""
    return "" if name == DEFAULT_NAME else f" --name {name}"


def load(name: str) -> State | None:
    """What was written down; None when there is nothing, or nothing that can be read."""
    try:
        plan = json.loads((STATE / name / "lab.json").read_text())
        subnet = ipaddress.IPv4Network(plan["subnet"])
        return State(name, subnet, int(plan["nodes"]), str(plan["storage_driver"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def names() -> list[str]:
    """Every lab of which anything is left on this machine."""
    written = {path.name for top in (STATE, HOME) if top.is_dir() for path in top.iterdir()}
    return sorted(written | {init.lab for init in process.find()})


def forget(name: str) -> None:
    """Remove all files of a lab."""
    for top in (HOME, STATE):
        _remove(top, name)


def forget_home(name: str) -> None:
    """Remove what a lab's nodes wrote, and keep the lock."""
    _remove(HOME, name)


def _remove(top: Path, name: str) -> None:
    shutil.rmtree(top / name, ignore_errors=True)
    with suppress(OSError):  # other labs are still in there, or it never was
        top.rmdir()


def subnets() -> list[ipaddress.IPv4Network]:
    """The subnets of all labs, those that are just being built included."""
    return [state.subnet for name in names() if (state := load(name))]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one process at a time changes a lab; LabBusyError at once when another one does."""
    with _flock(STATE / name, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def all_locked() -> Iterator[None]:
    """While a subnet is chosen and written down, for a moment."""
    with _flock(STATE, fcntl.LOCK_EX):
        yield


@contextmanager
def _flock(directory: Path, how: int) -> Iterator[None]:
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, how)
            # The holder before us may have removed the directory: then this lock guards nothing.
            if directory.exists() and os.fstat(fd).st_ino == directory.stat().st_ino:
                yield
                return
        except BlockingIOError:
            raise LabBusyError(
                f"lab {directory.name} is being changed by another process; wait for it, or end it"
            ) from None
        finally:
            os.close(fd)
