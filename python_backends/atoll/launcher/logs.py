"""The server's output: written to a file, its end kept in memory, important lines shown.

Knows tritonserver's line format and how it reports a model that failed to load.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

_LINE = re.compile(r"^([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ \d+ \S+\] (.*)$")
_FAILED = re.compile(r"^failed to load '(?P<name>.+?)' version \d+: (?P<reason>.*)$", re.DOTALL)
# Printed on every machine without a GPU, when stopping, and after a failed load, whose reason is
# reported once, where the load is awaited.
_NOISE = (
    "CudaDriverHelper has not been initialized",
    "Failed to initialize NVML",
    "Signal (15) received",
    "ERROR: Failed to create instance",
    "failed to load '",
    "load failed for model '",
    "error: creating server",
)
_TRACE = re.compile(r"^(At:|;|  \S.*\(\d+\): \S+)$")


class LogPump:
    """Reads the server's output in a thread until it ends.

    show: called with the lines that a user should see.
    """

    def __init__(
        self,
        stream: IO[str],
        path: Path,
        show: Callable[[str], None],
        verbose: bool,
        *,
        is_appending: bool = False,
    ) -> None:
        self.path = path
        self._mode = "a" if is_appending else "w"
        self._stream, self._show, self._verbose = stream, show, verbose
        self._tail: deque[str] = deque(maxlen=200)
        self._failures: dict[str, str] = {}
        # Set by the first line, by which time the server has read its arguments, and at the end.
        self.has_begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server-log", daemon=True)
        self._thread.start()

    @property
    def failures(self) -> dict[str, str]:
        """Why models failed to load, by name."""
        return dict(self._failures)

    def tail(self, count: int = 20) -> str:
        """The last lines, without tables."""
        lines = [line for line in list(self._tail) if not line.startswith(("+", "|")) and line]
        return "\n".join(lines[-count:])

    def join(self, timeout_s: float) -> None:
        """Waits for the output to end."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        with self.path.open(self._mode, encoding="utf-8") as file:
            for raw in self._stream:
                line = raw.rstrip("\n")
                file.write(raw)
                file.flush()
                self._tail.append(line)
                self.has_begun.set()
                self._note_failure(line)
                if self._verbose or _matters(line):
                    self._show(line)
        self.has_begun.set()

    def _note_failure(self, line: str) -> None:
        match = _LINE.match(line)
        if match is None or match.group(1) != "E":
            return
        failed = _FAILED.match(_unquoted(match.group(2)))
        if failed:
            self._failures[failed["name"]] = _reason(failed["reason"])


def _unquoted(text: str) -> str:
    """Newer servers write messages as JSON strings, older ones as plain text."""
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            return text.strip('"')
    return text


def _reason(text: str) -> str:
    """The exception's message, without the status code before it and the traceback after it."""
    text = text.split("\n\nAt:\n")[0].strip()
    return re.sub(r"^(Internal|Invalid argument|Unsupported|Unavailable): ", "", text)


def _matters(line: str) -> bool:
    """Errors, and whatever models print themselves, but not the server's tables and messages."""
    if not line.strip() or line.startswith(("+", "|")) or _TRACE.match(line):
        return False
    if any(noise in line for noise in _NOISE):
        return False
    match = _LINE.match(line)
    return match is None or match.group(1) in "EF"
