"""Log lines of the gateway, as text or as JSON; the launcher's and the models' look the same.

They are another distribution's (``atoll.logs``), which this one cannot import.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any


def configure(level: str, form: str) -> None:
    """Has this process write its log lines, uvicorn's included, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class JsonLines(logging.Formatter):
    """An object in each line."""

    def format(self, record: logging.LogRecord) -> str:
        found = line_facts(record.levelname, record.name, record.getMessage(), record.created)
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False)


def line_facts(level: str, logger: str, message: str, seconds: float) -> dict[str, Any]:
    """What every line in JSON has. seconds: when it was, since the epoch."""
    when = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
    named = {"time": when, "level": level.lower(), "logger": logger, "message": message}
    return {**named, "process": "gateway"}
