"""Load on published ports from a process of its own: short connections, and long ones that echo.

`Load` opens short connections to every address and writes down each failure and each slow one; `EchoHold`
keeps connections busy and writes down when and why each ended. Both run in a child process, so that
pytest's own work disturbs nothing, end by themselves after `seconds`, and keep a bounded number of records.
Times are `time.time()` (wall) and `time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

MOST_RECORDS = 10_000
SLOW_SECONDS = 0.1
STEPS = 10  # of the counts of latencies, in each power of ten
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


@dataclass(frozen=True)
class Failure:
    """A connection that did not get its answer, or a long one that ended before it was told to."""

    began: float  # monotonic, as is `monotonic`: when it failed
    monotonic: float
    wall: float
    address: str
    reason: str  # refused | reset | timeout | short answer | wrong answer | closed | the error's own words
    task: str = ""  # the server's name, of a long connection that was established; "" of a new one

    @property
    def began_wall(self) -> float:
        """When it began, on the wall clock."""
        return self.wall - (self.monotonic - self.began)


@dataclass(frozen=True)
class Slow:
    """A connection that took longer than SLOW_SECONDS, whatever came of it."""

    seconds: float
    wall: float  # when it began
    address: str


@dataclass
class Report:
    """What came of it. `answers` counts, by address, every distinct first line (the container's name)."""

    succeeded: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)  # the first MOST_RECORDS of each address
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    last: dict[str, dict[str, float]] = field(default_factory=dict)  # when the last of these began (wall)
    failed_at: dict[str, int] = field(default_factory=dict)  # by address
    slow: list[Slow] = field(default_factory=list)  # the first MOST_RECORDS of each address
    slow_at: dict[str, int] = field(default_factory=dict)
    latencies: dict[str, dict[str, int]] = field(default_factory=dict)  # by address, then by step
    opened: dict[str, int] = field(default_factory=dict)  # long connections only, by address
    open_at_end: int = 0  # long connections only
    slowest: float = 0.0  # seconds

    def fail(self, address: str, reason: str, began: float, task: str = "") -> None:
        """Count a failure, now, of a connection that began at monotonic time `began`."""
        self.failed += 1
        self.failed_at[address] = self.failed_at.get(address, 0) + 1
        if self.failed_at[address] <= MOST_RECORDS:
            self.failures.append(Failure(began, time.monotonic(), time.time(), address, reason, task))

    def answer(self, address: str, text: str, began: float | None = None) -> None:
        """Count an answer to a connection that began at wall time `began`."""
        self.succeeded += 1
        seen = self.answers.setdefault(address, {})
        if text in seen or len(seen) < MOST_RECORDS:
            seen[text] = seen.get(text, 0) + 1
            latest = self.last.setdefault(address, {})
            latest[text] = max(latest.get(text, 0.0), began or time.time())

    def took(self, address: str, seconds: float) -> None:
        """Count how long a connection took that ends now."""
        self.slowest = max(self.slowest, seconds)
        step = str(math.ceil(math.log10(max(seconds, 1e-5)) * STEPS))
        counts = self.latencies.setdefault(address, {})
        counts[step] = counts.get(step, 0) + 1
        if seconds > SLOW_SECONDS:
            self.slow_at[address] = self.slow_at.get(address, 0) + 1
            if self.slow_at[address] <= MOST_RECORDS:
                self.slow.append(Slow(seconds, time.time() - seconds, address))

    def percentile(self, percent: float, of: Callable[[str], bool] = lambda address: True) -> float:
        """Seconds that so many percent of the short connections did not exceed, up to a quarter more."""
        counts: Counter[int] = Counter()
        for address, steps in self.latencies.items():
            if of(address):
                counts.update({int(step): count for step, count in steps.items()})
        left = counts.total() * percent / 100
        for step in sorted(counts):
            left -= counts[step]
            if left <= 0:
                return float(10 ** (step / STEPS))
        return 0.0

    def reasons(self) -> dict[str, int]:
        """How many failures (of those written down) there are of each reason."""
        return dict(Counter(failure.reason for failure in self.failures))

    @classmethod
    def parse(cls, text: str) -> Report:
        """The report that a child process printed."""
        fields = json.loads(text)
        fields["failures"] = [Failure(**failure) for failure in fields["failures"]]
        fields["slow"] = [Slow(**slow) for slow in fields["slow"]]
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
    """`concurrency` clients for each address; `rate` limits the connections a second for each address.

    `steady`: connections begin at this rate whatever becomes of those before, `concurrency` at once at most.
    """

    addresses: tuple[str, ...]  # HOST:PORT
    concurrency: int
    rate: float
    request: str
    timeout: float
    seconds: float
    source: str
    steady: bool


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
        steady: bool = False,
    ) -> None:
        assert rate > 0 or not steady
        super().__init__(
            LoadPlan(tuple(addresses), concurrency, rate, request.decode(), timeout, seconds, source, steady)
        )


@dataclass(frozen=True)
class HoldPlan:
    """`count` connections to the addresses in turn, each sending a line every `pause` seconds.

    `greeted`: the server begins with its name. `reopen`: another one follows each that has ended. `renew`:
    after so many seconds each ends in good order and another one follows; 0 for never.
    """

    addresses: tuple[str, ...]  # HOST:PORT
    count: int
    pause: float
    timeout: float
    seconds: float
    greeted: bool
    reopen: bool
    renew: float


class EchoHold(_Child[HoldPlan]):
    """Long connections to an echo server. `started` means that all of them have echoed once."""

    kind = "hold"

    def __init__(
        self,
        *addresses: str,
        count: int,
        pause: float = 0.1,
        timeout: float = 10.0,
        seconds: float = 120.0,
        greeted: bool = False,
        reopen: bool = False,
        renew: float = 0.0,
    ) -> None:
        super().__init__(HoldPlan(addresses, count, pause, timeout, seconds, greeted, reopen, renew))


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
    if plan.steady:
        clients = [_pacer(plan, address, report, stop) for address in plan.addresses]
    else:
        each = [address for address in plan.addresses for _ in range(plan.concurrency)]
        clients = [_client(plan, address, report, stop) for address in each]
    started()
    await asyncio.gather(*clients)


async def _client(plan: LoadPlan, address: str, report: Report, stop: asyncio.Event) -> None:
    pause = plan.concurrency / plan.rate if plan.rate else 0.0
    turn = time.monotonic()
    while not stop.is_set():
        if not await _attempt(plan, address, report):
            await asyncio.sleep(0.01)  # a refusing port must not turn this into a busy loop
        turn = _next(turn, pause)
        await asyncio.sleep(max(0.0, turn - time.monotonic()))


async def _pacer(plan: LoadPlan, address: str, report: Report, stop: asyncio.Event) -> None:
    """Begins connections at the plan's rate, whatever becomes of those before."""
    turn = time.monotonic()
    running: set[asyncio.Task[bool]] = set()
    while not stop.is_set():
        if len(running) < plan.concurrency:
            task = asyncio.create_task(_attempt(plan, address, report))
            running.add(task)
            task.add_done_callback(running.discard)
        else:
            report.fail(address, "too many are open", time.monotonic())
        turn = _next(turn, 1 / plan.rate)
        await asyncio.sleep(max(0.0, turn - time.monotonic()))
    await asyncio.gather(*running)


def _next(turn: float, pause: float) -> float:
    return max(turn + pause, time.monotonic() - 1)  # after a stall do not make up for more than a second


async def _attempt(plan: LoadPlan, address: str, report: Report) -> bool:
    """One connection; whether it was answered."""
    began, wall = time.monotonic(), time.time()
    try:
        async with asyncio.timeout(plan.timeout):
            report.answer(address, await _ask(address, plan), wall)
        return True
    except (OSError, EOFError, WrongAnswerError) as error:
        report.fail(address, _reason(error), began)
        return False
    finally:
        report.took(address, time.monotonic() - began)


async def _hold(plan: HoldPlan, report: Report, stop: asyncio.Event, started: Callable[[], None]) -> None:
    holders = [
        _Holder(plan, plan.addresses[number % len(plan.addresses)], report, stop)
        for number in range(plan.count)
    ]
    tasks = [asyncio.create_task(holder.run()) for holder in holders]
    for holder in holders:
        await holder.echoed.wait()
    started()
    await asyncio.gather(*tasks)


class _Holder:
    """Keeps one long connection; `echoed` is set once its first line has come back, or it has failed."""

    def __init__(self, plan: HoldPlan, address: str, report: Report, stop: asyncio.Event) -> None:
        self.plan, self.address, self.report, self.stop = plan, address, report, stop
        self.echoed = asyncio.Event()
        self._task = ""  # the name of the server that this connection has reached

    async def run(self) -> None:
        await self._once()
        while self.plan.reopen and not self.stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), self.plan.pause)
            await self._once()

    async def _once(self) -> None:
        began, self._task = time.monotonic(), ""
        self.report.opened[self.address] = self.report.opened.get(self.address, 0) + 1
        try:
            async with asyncio.timeout(self.plan.timeout):
                reader, writer = await asyncio.open_connection(*_split(self.address))
            try:
                await self._talk(reader, writer)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        except (OSError, EOFError, WrongAnswerError) as error:
            self.report.fail(self.address, _reason(error), began, self._task)
        finally:
            self.echoed.set()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = await self._line(reader) if self.plan.greeted else b""
        number, last = 0, False
        until = time.monotonic() + (self.plan.renew or math.inf)
        while not last and time.monotonic() < until:
            last = self.stop.is_set()  # one exchange after the stop shows that it is still open
            line = b"line %d\n" % number
            writer.write(line)
            if await self._line(reader) != line:
                raise WrongAnswerError("wrong answer")
            self._task = name.decode().strip()
            self.report.succeeded += 1
            self.echoed.set()
            number += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), self.plan.pause)
        self.report.open_at_end += last

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(self.plan.timeout):
            line = await reader.readline()
        if not line.endswith(b"\n"):
            raise WrongAnswerError("short answer" if line else "closed")
        return line


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
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    settings = json.loads(sys.argv[2])
    settings["addresses"] = tuple(settings["addresses"])
    if sys.argv[1] == Load.kind:
        outcome = asyncio.run(_main(_load, LoadPlan(**settings)))
    else:
        outcome = asyncio.run(_main(_hold, HoldPlan(**settings)))
    print(json.dumps(asdict(outcome)))
