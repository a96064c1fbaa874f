"""Log lines, as text or as JSON: of the launcher, of models' processes, and what they pass on.

A record may have ``facts`` (``extra={"facts": {...}}``), which become members of its object, or
``name=value`` behind its text. Values of facts are written as JSON in both forms, so that none can
begin a new line.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

from atoll.config import read_values

# Their level is their own: they are written if they are asked for, whatever log_level is.
REQUESTS = "atoll.requests"


@dataclass(frozen=True)
class LogOptions:
    """The settings of these names, which apply to every process of a server."""

    log_level: str = "warning"
    log_format: str = "text"
    log_requests: bool = False
    log_prompts: bool = False
    otlp_endpoint: str | None = None
    otlp_service_name: str | None = None

    @classmethod
    def read(
        cls, parameters: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> LogOptions:
        """From an entry's parameters, then the environment. Raises ConfigError: a wrong value."""
        return cls(**read_values([f.name for f in fields(cls)], parameters, environment))


SERVER_WIDE = tuple(f.name for f in fields(LogOptions))


def configure(options: LogOptions, about: Mapping[str, str]) -> None:
    """Has this process write its log lines to standard error.

    about: members of every object: which process it is.
    """
    handler = logging.StreamHandler(sys.stderr)
    is_json = options.log_format == "json"
    handler.setFormatter(JsonLines(about) if is_json else TextLines(about.get("model", "")))
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger(REQUESTS).setLevel(logging.INFO)


def copy_to(write: Callable[[str], None]) -> None:
    """Has every log line of this process written there, too."""
    root = logging.getLogger()
    copying = _Copying(write)
    copying.setFormatter(root.handlers[0].formatter)
    root.addHandler(copying)


class _Copying(logging.Handler):
    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record))


def is_json() -> bool:
    """Whether this process writes its log lines as JSON."""
    return any(isinstance(h.formatter, JsonLines) for h in logging.getLogger().handlers)


class TextLines(logging.Formatter):
    """``WARNING name: text fact=value``. subject: replaces the logger's name, if it is not ""."""

    def __init__(self, subject: str = "") -> None:
        super().__init__(f"%(levelname)s {subject or '%(name)s'}: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{k}={_dumped(v)}" for k, v in _facts(record).items() if v != "")
        line = super().format(record)
        return f"{line} {facts}" if facts else line


class JsonLines(logging.Formatter):
    """An object in each line: time, level, logger, message, ``about``, and the record's facts."""

    def __init__(self, about: Mapping[str, str]) -> None:
        super().__init__()
        self._about = about

    def format(self, record: logging.LogRecord) -> str:
        found = line_facts(record.levelname, record.name, record.getMessage(), record.created)
        found |= {**self._about, **_facts(record)}
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return _dumped(found)


def line_facts(level: str, logger: str, message: str, seconds: float) -> dict[str, Any]:
    """What every line in JSON has. seconds: when it was, since the epoch."""
    time = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
    return {"time": time, "level": level.lower(), "logger": logger, "message": message}


def _facts(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, "facts", {})
    return found


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
