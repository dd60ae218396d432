"""A small file of the agent's state: read within bounds, replaced as a whole."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def read(path: Path, longest: int) -> bytes | None:
    """The file; None where there is none. ValueError when it is larger than `longest` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(longest + 1)
    except FileNotFoundError:
        return None
    if len(data) > longest:
        raise ValueError(f"it is larger than {longest} bytes")
    return data


def replace(path: Path, data: bytes) -> None:
    """Put `data` there as a whole, or leave what is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
