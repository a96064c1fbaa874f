"""How far a model's process has come with loading, told to the launcher by lines on its output.

Only the launcher asks for them, by a variable: other servers' logs stay as they are.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MARK = "atoll-progress "
WANTED = "ATOLL_PROGRESS"


def introduce(model: str, version: str) -> None:
    """Says which model this process loads; before its first phase. Kernels tell theirs by logs."""
    if WANTED in os.environ:
        _tell(model=model, version=version)
        kernels = logging.getLogger("atoll_kernels.cpu.native.build")
        kernels.setLevel(logging.INFO)
        kernels.addHandler(_Phases())


@contextmanager
def phase(name: str) -> Iterator[None]:
    """``with``: a phase of loading, such as ``weights``."""
    _tell(phase=name, state="begin")
    yield
    _tell(phase=name, state="end")


def read(line: str) -> dict[str, Any] | None:
    """What a line tells; None: it is another line."""
    if not line.startswith(MARK):
        return None
    try:
        found: dict[str, Any] = json.loads(line.removeprefix(MARK))
    except ValueError:
        return None
    return found


class _Phases(logging.Handler):
    """Tells of records that have a ``phase``: its name and state."""

    def emit(self, record: logging.LogRecord) -> None:
        if (found := getattr(record, "phase", None)) is not None:
            _tell(phase=found[0], state=found[1])


def _tell(**facts: Any) -> None:
    if WANTED in os.environ:
        # One write: lines of other threads and processes would mix with parts of it.
        os.write(2, f"{MARK}{json.dumps({'pid': os.getpid(), **facts})}\n".encode())
