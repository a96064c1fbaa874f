"""The log of a server, launcher and gateway: a file.

The server's output is written to it, its end kept in memory, important lines shown.

Knows tritonserver's line format and how it reports a model that failed to load. With ``json``, its
lines are written and shown as objects like those of models; lines of models are such objects.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from atoll.config import LOG_LEVELS
from atoll.logs import LogOptions, line_facts

_LINE = re.compile(r"^([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ \d+ (\S+)\] (.*)$")
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error"}
_FAILED = re.compile(r"^failed to load '(?P<name>.+?)' version \d+: (?P<reason>.*)$", re.DOTALL)
# Printed on every machine without a GPU, when stopping, and after a failed load, whose reason is
# reported once, where the load is awaited.
_NOISE = (
    "CudaDriverHelper has not been initialized",
    "Failed to initialize NVML",
    "Unable to allocate pinned system memory",
    "DCGM unable to start",
    "Signal (15) received",
    "ERROR: Failed to create instance",
    "failed to load '",
    "load failed for model '",
    "error: creating server",
)
_TRACE = re.compile(r"^(At:|;|  \S.*\(\d+\): \S+)$")


class LogPump:
    """Reads the server's output in a thread until it ends.

    show: called with the lines that a user should see. options: log_level says which those are,
    log_format how they are written. read: called with each line; true: it is for nobody else.
    """

    def __init__(
        self,
        stream: IO[str],
        path: Path,
        show: Callable[[str], None],
        verbose: bool,
        *,
        is_appending: bool = False,
        options: LogOptions | None = None,
        read: Callable[[str], bool] = lambda line: False,
        on_failure: Callable[[str], None] = lambda model: None,
    ) -> None:
        self.path = path
        self._options, self._read = options or LogOptions(), read
        self._on_failure = on_failure
        if not is_appending:
            path.write_text("")
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
        # Appended to, as other processes' lines are.
        with self.path.open("a", encoding="utf-8") as file:
            for raw in self._stream:
                line = raw.rstrip("\n")
                self.has_begun.set()
                if self._read(line):
                    continue
                is_json = self._options.log_format == "json"
                written = as_json(line) if is_json else line
                if written or not is_json:
                    file.write(f"{written}\n")
                    file.flush()
                self._tail.append(line)
                self._note_failure(line)
                if self._verbose or _matters(line, self._options.log_level):
                    self._show(written)
        self.has_begun.set()

    def _note_failure(self, line: str) -> None:
        match = _LINE.match(line)
        if match is None or match.group(1) != "E":
            return
        failed = _FAILED.match(_unquoted(match.group(3)))
        if failed:
            self._failures[failed["name"]] = reason(failed["reason"])
            self._on_failure(failed["name"])


def add_line(path: Path, line: str) -> None:
    """Adds a line of the launcher or the gateway to the log; without effect while there is no
    server, if the log is in its folder."""
    with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _unquoted(text: str) -> str:
    """Newer servers write messages as JSON strings, older ones as plain text."""
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            return text.strip('"')
    return text


def reason(text: str) -> str:
    """The exception's message, without the status code before it and the traceback after it."""
    text = text.split("\n\nAt:\n")[0].strip()
    return re.sub(r"^(Internal|Invalid argument|Unsupported|Unavailable): ", "", text)


def as_json(line: str) -> str:
    """A line as an object: Triton's with its level and place; "" for an empty one."""
    if line.startswith("{"):
        return line
    if not line.strip():
        return ""
    match = _LINE.match(line)
    level, text, place = "info", line, ""
    if match is not None:
        level, place, text = _LEVELS[match.group(1)], match.group(2), _unquoted(match.group(3))
    found = {**line_facts(level, "triton", text, time.time()), "process": "tritonserver"}
    return json.dumps({**found, **({"place": place} if place else {})}, ensure_ascii=False)


def _matters(line: str, level: str) -> bool:
    """Triton's messages of this level or above, and whatever models print themselves, but not the
    server's tables."""
    if not line.strip() or line.startswith(("+", "|")) or _TRACE.match(line):
        return False
    if any(noise in line for noise in _NOISE):
        return False
    match = _LINE.match(line)
    if match is None:
        return True
    return LOG_LEVELS.index(_LEVELS[match.group(1)]) >= LOG_LEVELS.index(level)
