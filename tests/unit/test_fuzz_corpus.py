"""What the fuzzers have kept, and mutations of it, as ordinary tests without atheris and clang."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshlb._proxy_header import begins, format_header, parse

FUZZ = Path(__file__).parents[1] / "fuzz"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.py"))
CORPUS = sorted(path for path in (FUZZ / "corpus").rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def fuzzers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FUZZ))


def check_of(target: str) -> Callable[[bytes], object]:
    check: Callable[[bytes], object] = importlib.import_module(f"fuzz_{target}").check
    return check


def kept(target: str) -> list[bytes]:
    return [path.read_bytes() for path in CORPUS if path.parent.name == target]


def mutations(target: str, count: int) -> Iterator[bytes]:
    """Always the same ones: bytes replaced, added and removed, and ends of two inputs joined."""
    mutate = importlib.import_module("json_mutator").mutate
    chance, inputs = random.Random(target), kept(target)
    for seed in range(count):
        data, other = bytearray(chance.choice(inputs)), chance.choice(inputs)
        changed = mutate(bytes(data), 6000, seed)
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        yield from (bytes(data), bytes(data[:at]) + other[at:])
        if changed is not None:
            yield changed


def test_every_corpus_has_a_fuzzer() -> None:
    assert {path.parent.name for path in CORPUS} == {*TARGETS, "proxy_header"}
    assert sum(path.stat().st_size for path in CORPUS) < 2 << 20


@pytest.mark.parametrize("target", TARGETS)
def test_the_kept_corpus(target: str) -> None:
    check = check_of(target)
    for data in kept(target):
        check(data)


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_of_the_kept_corpus(target: str) -> None:
    check = check_of(target)
    for data in mutations(target, 100):
        check(data)


def test_the_kept_headers_and_mutations_of_them() -> None:
    for data in (*kept("proxy_header"), *mutations("proxy_header", 100)):
        check_header(data)


def verdict(data: bytes) -> object:
    try:
        return parse(data)
    except ValueError:
        return "refused"


def check_header(data: bytes) -> None:
    """As the C harness, through the surface that Python has."""
    whole = verdict(data)
    for cut in {*range(min(len(data), 130)), *range(len(data) - 3, len(data))} - {-1, -2, -3}:
        early = verdict(data[:cut])
        assert early is None or early == whole, "more bytes do not change a verdict"
        assert early is not None or not isinstance(whole, tuple) or cut < whole[0], "a header needs no more"
    if isinstance(whole, tuple) and whole[1] is not None:
        _, source, source_port, destination, port = whole
        assert begins(data) == 1
        for version in (1, 2):
            header = format_header(version, source, source_port, destination, port)
            assert parse(header) == (len(header), *whole[1:])


def test_mutator_leaves_alone_what_is_nested_too_deeply() -> None:
    """The parser is written in C and takes deeper values than what copies and writes them."""
    mutate = importlib.import_module("json_mutator").mutate
    deep = b"[" * 900 + b"]" * 900
    assert {mutate(b'{"a":%s,"b":[]}' % deep, 6000, seed) for seed in range(200)} >= {None}
