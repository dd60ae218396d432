"""Runs a Python target under atheris: `python tests/fuzz/run.py TARGET [libFuzzer's arguments]`."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import atheris
from json_mutator import mutate

BUILD = Path(__file__).parents[2] / "build" / "fuzz"
OF_JSON = ("engine", "peer_message")
INSTRUMENTED = ["meshlb", "ipaddress", "tomllib", "json", "difflib"]


def main(name: str, arguments: list[str]) -> None:
    """Does not return: libFuzzer ends the process."""
    for module in [module for module in sys.modules if module.split(".")[0] in INSTRUMENTED]:
        del sys.modules[module]  # atheris instruments what it sees being imported
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = importlib.import_module(f"fuzz_{name}")
    options: dict[str, Any] = {"custom_mutator": _mutate_json} if name in OF_JSON else {}
    words = BUILD / f"{name}.dict"
    words.write_text(_dictionary(target.WORDS))
    again = shlex.join([sys.executable, __file__, name])  # libFuzzer's shell runs it for a merge
    atheris.Setup([again, f"-dict={words}", *arguments], target.check, **options)
    atheris.Fuzz()


def _dictionary(words: Iterable[str]) -> str:
    """libFuzzer's format: each word in quotes, everything unusual as hexadecimal."""
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in words)


def _mutate_json(data: bytes, most: int, seed: int) -> bytes:
    """Three times in four a change of the value, else one of the bytes."""
    changed = mutate(data, most, seed) if seed % 4 else None
    return bytes(atheris.Mutate(data, most)) if changed is None else changed


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
