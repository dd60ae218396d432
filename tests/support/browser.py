"""Chromium without a window, told what to do over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium")
START = 30.0  # seconds
# For tests that need one. Where scripts/test has seen to it, its absence is a failure.
needed = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("MESHLB_REQUIRE_PAGE") != "1", reason="chromium is not installed"
)


def keep(name: str, picture: bytes) -> None:
    """A picture for people to look at, where MESHLB_PICTURES says."""
    if folder := os.environ.get("MESHLB_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_bytes(picture)


class Page:
    """One tab. What it complained about is in `complaints`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._socket, self._ids = socket, itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        """Take what the browser says; ends with it."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])
            elif said["method"] in {"Runtime.exceptionThrown", "Log.entryAdded"}:
                self.complaints.append(str(said["params"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        said = await self._answers[number]
        assert "error" not in said, said
        return dict(said["result"])

    async def open(self, url: str, width: int, *, dark: bool = False) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.show(width, dark=dark)
        await self.call("Page.navigate", url=url)

    async def show(self, width: int, *, dark: bool = False, height: int = 900) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def value(self, script: str) -> Any:
        """What a script gives, or its promise."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    async def press(self, key: str, text: str = "") -> None:
        """A key on the keyboard; `text` is what it writes."""
        code = {"Tab": 9, "Enter": 13, " ": 32}.get(key, ord(text.upper()) if text else 0)
        what = {"key": key, "windowsVirtualKeyCode": code, "text": text or ("\r" if key == "Enter" else "")}
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, **what)

    async def until(self, script: str, seconds: float = START) -> Any:
        """The first value of the script that is true."""
        async with asyncio.timeout(seconds):
            while not (found := await self.value(script)):  # noqa: ASYNC110  # no event tells it
                await asyncio.sleep(0.05)
        return found

    async def picture(self) -> bytes:
        """All of the page as PNG."""
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(found["data"])


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A fresh browser with a page of its own."""
    async with tabs(1) as (page,):
        yield page


@asynccontextmanager
async def tabs(count: int) -> AsyncIterator[list[Page]]:
    """A fresh browser with so many pages."""
    async with _chromium() as (session, port), AsyncExitStack() as stack:
        addresses = [await _first(session, port), *[await _another(session, port) for _ in range(count - 1)]]
        sockets = [
            await stack.enter_async_context(session.ws_connect(each, max_msg_size=0)) for each in addresses
        ]
        pages = [Page(socket) for socket in sockets]
        listening = [asyncio.create_task(page.listen()) for page in pages]
        yield pages
        for task in listening:
            task.cancel()


@asynccontextmanager
async def _chromium() -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A browser, and the port at which it is told what to do."""
    assert CHROMIUM, "chromium is not installed"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"TMPDIR": profile},  # it is killed, and leaves what it has there
        )
        try:
            async with aiohttp.ClientSession() as session:
                yield session, await _port(Path(profile))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _port(profile: Path) -> str:
    async with asyncio.timeout(START):
        while True:
            with suppress(OSError, IndexError):
                return (profile / "DevToolsActivePort").read_text().split()[0]
            await asyncio.sleep(0.05)


async def _first(session: aiohttp.ClientSession, port: str) -> str:
    """The WebSocket of the browser's page."""
    async with asyncio.timeout(START):
        while True:
            with suppress(OSError, aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = [one for one in await answer.json() if one["type"] == "page"]
                    if pages:
                        return str(pages[0]["webSocketDebuggerUrl"])
            await asyncio.sleep(0.05)


async def _another(session: aiohttp.ClientSession, port: str) -> str:
    async with session.put(f"http://127.0.0.1:{port}/json/new") as answer:
        return str((await answer.json())["webSocketDebuggerUrl"])
