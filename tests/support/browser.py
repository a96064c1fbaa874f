"""Headless Chromium, driven over its debugging pipe: no driver, no other package."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """Where a browser is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. ``evaluate`` returns what a script (or the promise it makes) comes to."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = os.fdopen(requests, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb")
        self._number = 0
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session: str = attached["sessionId"]
        self._call("Page.enable")

    def open(self, url: str) -> None:
        """Returns once the page has loaded."""
        self._call("Page.navigate", {"url": url})
        while self._read().get("method") != "Page.loadEventFired":
            continue

    def evaluate(self, script: str) -> Any:
        """Raises RuntimeError if the script throws."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        found = self._call("Runtime.evaluate", asked)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"]))
        return found["result"].get("value")

    def look(self, width: int, scheme: str) -> None:
        """Sets the width in pixels, and the colour scheme: light or dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", {"features": features})

    def picture(self) -> bytes:
        """What is seen, as PNG."""
        found = self._call("Page.captureScreenshot", {"format": "png"})
        return base64.b64decode(found["data"])

    def close(self) -> None:
        """Ends the browser."""
        self._requests.close()
        self._answers.close()

    def _call(self, method: str, parameters: Any = None) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        self._requests.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            continue
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> Any:
        data = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has gone away")
            data += byte
        return json.loads(data)


@contextlib.contextmanager
def browser(path: str) -> Iterator[Page]:
    """A browser with one tab."""
    # Out of the way of 3 and 4, where Chromium looks for the pipes' ends.
    (theirs_in, ours_out), (ours_in, theirs_out) = (
        [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in os.pipe()] for _ in range(2)
    )

    def place() -> None:
        os.dup2(theirs_in, 3)
        os.dup2(theirs_out, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, pass_fds=(3, 4), preexec_fn=place, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        page = Page(ours_out, ours_in)
        try:
            yield page
        finally:
            page.close()
            process.terminate()
            process.wait(timeout=10)
