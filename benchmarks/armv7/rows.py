"""The file that count.c writes: what every emulated thread has executed and called so far."""

from __future__ import annotations

import mmap
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROWS, COLUMNS = 64, 512
ROW = struct.Struct(f"<{COLUMNS}Q")
_NUMBER = re.compile(r"#define __NR_(\w+)\s+\(__NR_SYSCALL_BASE\s*\+\s*(\d+)\)")


def names(root: Path) -> dict[int, str]:
    """The system calls of the root's architecture, as its own headers number them."""
    headers = sorted((root / "usr/include/arm-linux-gnueabihf/asm").glob("unistd-*.h"))
    found = {int(number): name for header in headers for name, number in _NUMBER.findall(header.read_text())}
    assert found, f"no numbers of system calls in {root}"
    return found


@dataclass(frozen=True)
class Thread:
    """What one thread has done, since it began or between two looks."""

    instructions: int
    calls: Counter[int]

    def since(self, before: Thread) -> Thread:
        return Thread(self.instructions - before.instructions, self.calls - before.calls)


class Rows:
    """The same file, to look at while the emulated process goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(ROWS * ROW.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ROWS * ROW.size)

    def look(self) -> list[Thread]:
        return [self._thread(ROW.unpack_from(self._map, row * ROW.size)) for row in range(ROWS)]

    @staticmethod
    def _thread(row: tuple[int, ...]) -> Thread:
        return Thread(row[0], Counter({number: count for number, count in enumerate(row[1:]) if count}))
