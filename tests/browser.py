"""A headless Chromium, driven by its DevTools protocol, and the runs whose pages it opens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
START_SECONDS, CALL_SECONDS = 90.0, 60.0


class Page:
    """A tab.

    Attributes:
        errors: What the console has complained of since the page was opened.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, loop: asyncio.AbstractEventLoop) -> None:
        self._socket, self._loop, self._last = socket, loop, 0
        self._events: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), CALL_SECONDS))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        while (message := await self._next()).get("id") != self._last:
            pass
        assert "error" not in message, message
        return message["result"]

    async def _next(self) -> dict[str, Any]:
        message = await self._socket.receive_json()
        kind, params = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown" or (kind == "Log.entryAdded" and params["entry"]["level"] == "error"):
            self.errors.append(str(params))
        if kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params))
        self._events.append(message)
        return message

    def open(self, file: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Open a file from disk, and wait until it is loaded."""
        self.errors.clear()
        self._events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        is_phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=file.absolute().as_uri())
        deadline = time.monotonic() + CALL_SECONDS
        is_loaded = f"document.readyState === 'complete' && location.href === {json.dumps(file.absolute().as_uri())}"
        while not self.value(is_loaded):
            assert time.monotonic() < deadline, f"{file} is not loaded after {CALL_SECONDS} s"
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript, once it is there if it is a promise."""
        outcome = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in outcome, outcome
        return outcome["result"].get("value")


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with one tab, which ends with the context."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
        "--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    loop = asyncio.new_event_loop()
    try:
        session, socket = loop.run_until_complete(_connect(profile / "DevToolsActivePort"))
        yield Page(socket, loop)
        loop.run_until_complete(session.close())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        loop.close()


async def _connect(port_file: Path) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    deadline = time.monotonic() + START_SECONDS
    while not (port_file.exists() and len(port_file.read_text().splitlines()) >= 2):
        assert time.monotonic() < deadline, f"no browser after {START_SECONDS} s"
        await asyncio.sleep(0.05)
    port = port_file.read_text().splitlines()[0]
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json") as answer:
        (tab,) = [one for one in await answer.json() if one["type"] == "page"]
    return session, await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
