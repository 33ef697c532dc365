"""Chromium without a window, spoken to over a pipe: no library, and no port is opened."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_END = b"\0"


class BrowserError(Exception):
    """There is no browser, or it did not answer."""


def find_browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page in a browser; what it says and asks for is in ``events``."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._left = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, *, seconds: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + _END)
        until = time.monotonic() + seconds
        while True:
            answer = self._next(until)
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise BrowserError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def wait(self, event: str, *, seconds: float = 60.0) -> None:
        """Wait for an event that has not come yet."""
        until = time.monotonic() + seconds
        while not any(found.get("method") == event for found in self.events):
            self.events.append(self._next(until))

    def open(self, url: str) -> None:
        """Open an address, and wait until it is loaded; what was said before is forgotten."""
        self.events.clear()
        self.ask("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise BrowserError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key: ``Tab``, ``Enter``, ``ArrowDown``, or a character."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, "Home": 36, "End": 35}.get(key, 0)
        code = {"ArrowUp": 38, "ArrowDown": 40, " ": 32}.get(key, code)
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def screen(self, width: int, height: int, *, phone: bool = False, scheme: str = "") -> None:
        """Set the size of the window, whether it is a phone, and ``light`` or ``dark``."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.ask("Emulation.setTouchEmulationEnabled", enabled=phone)
        wanted = [{"name": "prefers-color-scheme", "value": scheme or "light"}]
        self.ask("Emulation.setEmulatedMedia", media="", features=wanted)

    def picture(self, path: Path, *, full: bool = False) -> None:
        """Write what is seen, or the full page, to a file: PNG, or WebP if it is called so."""
        kind: dict[str, Any] = {"format": "png"}
        if path.suffix == ".webp":
            kind = {"format": "webp", "quality": 80}
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=full, **kind)
        path.write_bytes(base64.b64decode(found["data"]))

    def printed(self, path: Path) -> None:
        """Write the page as it is printed to a PDF file."""
        found = self.ask("Page.printToPDF", printBackground=False)
        path.write_bytes(base64.b64decode(found["data"]))

    def said(self) -> list[str]:
        """Return what stands in the console: messages, warnings, errors, exceptions."""
        kinds = {
            "Runtime.consoleAPICalled": lambda p: [a.get("value") for a in p["args"]],
            "Runtime.exceptionThrown": lambda p: p["exceptionDetails"].get("exception"),
            "Log.entryAdded": lambda p: p["entry"]["text"],
        }
        return [
            str(kinds[event["method"]](event["params"]))
            for event in self.events
            if event.get("method") in kinds
        ]

    def requested(self) -> list[str]:
        """Return the addresses that were asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def _next(self, until: float) -> dict[str, Any]:
        while _END not in self._left:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            chunk = os.read(self._read, 2**20) if ready else b""
            if not chunk:
                raise BrowserError("the browser did not answer")
            self._left += chunk
        message, _, self._left = self._left.partition(_END)
        return json.loads(message)


@contextmanager
def browser(path: str, environment: Mapping[str, str] | None = None) -> Iterator[Tab]:
    """Start a browser with an empty profile, and end it.

    Args:
        path: of the program.
        environment: of its process.
    """
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # It reads commands from descriptor 3 and answers on 4.
        shell = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        options = (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        )
        process = subprocess.Popen(
            ["/bin/bash", "-c", shell, path, *options],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=None if environment is None else dict(environment),
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield Tab(to_us, from_us)
        finally:
            process.terminate()
            process.wait(20)
            os.close(from_us)
            os.close(to_us)
