"""A headless Chromium, driven by its DevTools protocol, and the runs whose pages it opens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
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

    def open(self, place: Path | str, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Open a file from disk, without a network, or an address; and wait until it is loaded."""
        url = place if isinstance(place, str) else place.absolute().as_uri()
        self.errors.clear()
        self._events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        limits = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=isinstance(place, Path), **limits)
        is_phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def wait(self, condition: str, *, seconds: float = CALL_SECONDS) -> None:
        """Wait until an expression of JavaScript is true."""
        deadline = time.monotonic() + seconds
        while not self.value(condition):
            assert time.monotonic() < deadline, f"not after {seconds} s: {condition}; {self.errors}"
            time.sleep(0.02)

    def requested(self) -> list[str]:
        """What was fetched since the page was opened."""
        sent = [one["params"] for one in self._events if one.get("method") == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def click(self, selector: str) -> None:
        """Click on the middle of an element with the mouse."""
        self.value(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        x, y, width, height = self.frame(selector)
        self.drag((x + width / 2, y + height / 2), (x + width / 2, y + height / 2))

    def frame(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element in the window."""
        found = f"(r => [r.x, r.y, r.width, r.height])(document.querySelector({json.dumps(selector)})"
        x, y, width, height = self.value(f"{found}.getBoundingClientRect())")
        return x, y, width, height

    def drag(self, start: tuple[float, float], end: tuple[float, float], *, finger: bool = False) -> None:
        """Press at a place of the window, and let go at another."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        if finger:
            for kind, places in (
                ("touchStart", [start]),
                ("touchMove", [middle]),
                ("touchMove", [end]),
                ("touchEnd", []),
            ):
                points = [{"x": x, "y": y} for x, y in places]
                self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
            return
        for kind, (x, y) in (("Pressed", start), ("Moved", middle), ("Moved", end), ("Released", end)):
            options = {"button": "left", "buttons": 1 if kind != "Released" else 0, "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **options)

    def choose_files(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in an input, as its dialog does."""
        element = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=element["result"]["objectId"])

    def picture(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

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
