"""Load on published ports from a process of its own: short connections, and long ones that echo.

`Load` opens short connections to every address without a pause and writes down each failure; `EchoHold`
keeps connections busy and writes down when and why each ended. Both run in a child process, so that
pytest's own work disturbs nothing, end by themselves after `seconds`, and keep a bounded number of records.
Times are `time.time()` (wall) and `time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

MOST_RECORDS = 10_000
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


@dataclass(frozen=True)
class Failure:
    """A connection that did not get its answer, or a long one that ended before it was told to."""

    began: float  # monotonic, as is `monotonic`: when it failed
    monotonic: float
    wall: float
    address: str
    reason: str  # refused | reset | timeout | short answer | wrong answer | closed | the error's own words


@dataclass
class Report:
    """What came of it. `answers` counts, by address, every distinct first line (the container's name)."""

    succeeded: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)  # the first MOST_RECORDS
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    open_at_end: int = 0  # long connections only
    slowest: float = 0.0  # seconds

    def fail(self, address: str, reason: str, began: float) -> None:
        """Count a failure, now, of a connection that began at monotonic time `began`."""
        self.failed += 1
        if len(self.failures) < MOST_RECORDS:
            self.failures.append(Failure(began, time.monotonic(), time.time(), address, reason))

    def answer(self, address: str, text: str) -> None:
        """Count an answer."""
        self.succeeded += 1
        seen = self.answers.setdefault(address, {})
        if text in seen or len(seen) < MOST_RECORDS:
            seen[text] = seen.get(text, 0) + 1

    def reasons(self) -> dict[str, int]:
        """How many failures (of those written down) there are of each reason."""
        return dict(Counter(failure.reason for failure in self.failures))

    @classmethod
    def parse(cls, text: str) -> Report:
        """The report that a child process printed."""
        fields = json.loads(text)
        fields["failures"] = [Failure(**failure) for failure in fields["failures"]]
        return cls(**fields)


Plan = TypeVar("Plan")


class _Child(Generic[Plan]):
    """The process that makes the load; it starts on entry, and prints its report when its stdin ends."""

    kind: str

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        """Begin; returns when the first connections are on their way."""
        arguments = json.dumps(asdict(self.plan))  # type: ignore[call-overload]
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.kind, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "started\n"
        return self

    def stop(self) -> Report:
        """Let what is under way end, and report."""
        assert self._process, "start() it first"
        out, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0
        self._process = None
        return Report.parse(out)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


@dataclass(frozen=True)
class LoadPlan:
    """`concurrency` clients for each address; `rate` limits the connections a second for each address."""

    addresses: tuple[str, ...]  # HOST:PORT
    concurrency: int
    rate: float
    request: str
    timeout: float
    seconds: float
    source: str


class Load(_Child[LoadPlan]):
    """Short connections: connect, ask, read to the end."""

    kind = "load"

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        concurrency: int = 4,
        rate: float = 0.0,
        request: bytes = REQUEST,
        timeout: float = 10.0,
        seconds: float = 120.0,
        source: str = "",
    ) -> None:
        super().__init__(
            LoadPlan(tuple(addresses), concurrency, rate, request.decode(), timeout, seconds, source)
        )


@dataclass(frozen=True)
class HoldPlan:
    """`count` connections to one address, each sending a line every `pause` seconds."""

    address: str  # HOST:PORT
    count: int
    pause: float
    timeout: float
    seconds: float


class EchoHold(_Child[HoldPlan]):
    """Long connections to an echo server. `started` means that all of them have echoed once."""

    kind = "hold"

    def __init__(
        self, address: str, count: int, *, pause: float = 0.1, timeout: float = 10.0, seconds: float = 120.0
    ) -> None:
        super().__init__(HoldPlan(address, count, pause, timeout, seconds))


class WrongAnswerError(Exception):
    """The answer is not what a healthy server says."""


def _reason(error: BaseException) -> str:
    match error:
        case ConnectionRefusedError():
            return "refused"
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case TimeoutError():
            return "timeout"
        case asyncio.IncompleteReadError():
            return "short answer"
    return str(error) or type(error).__name__


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


async def _ask(address: str, plan: LoadPlan) -> str:
    """The first line of the body of one answer."""
    host, port = _split(address)
    local = (plan.source, 0) if plan.source else None
    reader, writer = await asyncio.open_connection(host, port, local_addr=local)
    try:
        writer.write(plan.request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return _checked(head, body)


def _checked(head: bytes, body: bytes) -> str:
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise WrongAnswerError("wrong answer")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:") and len(body) < int(line.split(b":")[1]):
            raise WrongAnswerError("short answer")
    if not body:
        raise WrongAnswerError("short answer")
    return body.split(b"\n", 1)[0].decode(errors="replace")


async def _load(plan: LoadPlan, report: Report, stop: asyncio.Event, started: Callable[[], None]) -> None:
    clients = [
        _client(plan, address, report, stop) for address in plan.addresses for _ in range(plan.concurrency)
    ]
    started()
    await asyncio.gather(*clients)


async def _client(plan: LoadPlan, address: str, report: Report, stop: asyncio.Event) -> None:
    pause = plan.concurrency / plan.rate if plan.rate else 0.0
    turn = time.monotonic()
    while not stop.is_set():
        began = time.monotonic()
        try:
            async with asyncio.timeout(plan.timeout):
                report.answer(address, await _ask(address, plan))
        except (OSError, EOFError, WrongAnswerError) as error:
            report.fail(address, _reason(error), began)
            await asyncio.sleep(0.01)  # a refusing port must not turn this into a busy loop
        report.slowest = max(report.slowest, time.monotonic() - began)
        turn = max(turn + pause, time.monotonic() - 1)  # after a stall do not make up for more than a second
        await asyncio.sleep(max(0.0, turn - time.monotonic()))


async def _hold(plan: HoldPlan, report: Report, stop: asyncio.Event, started: Callable[[], None]) -> None:
    echoed = [asyncio.Event() for _ in range(plan.count)]
    holders = [asyncio.create_task(_holder(plan, report, stop, first)) for first in echoed]
    for first in echoed:
        await first.wait()
    started()
    await asyncio.gather(*holders)


async def _holder(plan: HoldPlan, report: Report, stop: asyncio.Event, echoed: asyncio.Event) -> None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(plan.timeout):
            reader, writer = await asyncio.open_connection(*_split(plan.address))
        try:
            await _echo(plan, report, stop, echoed, reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except (OSError, EOFError, WrongAnswerError) as error:
        report.fail(plan.address, _reason(error), began)
    finally:
        echoed.set()


async def _echo(
    plan: HoldPlan,
    report: Report,
    stop: asyncio.Event,
    echoed: asyncio.Event,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    number, last = 0, False
    while not last:
        last = stop.is_set()  # one exchange after the stop shows that it is still open
        line = b"line %d\n" % number
        writer.write(line)
        async with asyncio.timeout(plan.timeout):
            answer = await reader.readline()
        if not answer.endswith(b"\n"):
            raise WrongAnswerError("short answer" if answer else "closed")
        if answer != line:
            raise WrongAnswerError("wrong answer")
        report.succeeded += 1
        echoed.set()
        number += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), plan.pause)
    report.open_at_end += 1


async def _main(work: Callable[..., Coroutine[Any, Any, None]], plan: LoadPlan | HoldPlan) -> Report:
    report, stop = Report(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.call_later(plan.seconds, stop.set)

    def told_to_stop() -> None:
        loop.remove_reader(sys.stdin.fileno())
        stop.set()

    loop.add_reader(sys.stdin.fileno(), told_to_stop)
    await work(plan, report, stop, lambda: print("started", flush=True))
    return report


if __name__ == "__main__":
    settings = json.loads(sys.argv[2])
    if sys.argv[1] == Load.kind:
        settings["addresses"] = tuple(settings["addresses"])
        outcome = asyncio.run(_main(_load, LoadPlan(**settings)))
    else:
        outcome = asyncio.run(_main(_hold, HoldPlan(**settings)))
    print(json.dumps(asdict(outcome)))
