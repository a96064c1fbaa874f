"""What a server does for an administrator, shown as it happens: one line in a terminal, else a
line for each phase and for each tenth of a download."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.status import Status


class Shown:
    """``with``; call it with each event. ``is_quiet``: shows nothing."""

    def __init__(self, is_quiet: bool = False) -> None:
        self._is_quiet = is_quiet
        self._console = Console(stderr=True, soft_wrap=True)
        self._status: Status | None = None
        self._last: tuple[Any, ...] = ()

    def __enter__(self) -> Shown:
        if sys.stderr.isatty() and not self._is_quiet:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Shows an event of ``launcher.admin``; the last one, without a phase, is the result."""
        phase = event.get("phase")
        if phase is None or self._is_quiet:
            return
        text = _text(event)
        is_end = phase in ("named", "ready", "unloaded", "downloaded")
        if self._status is not None and not is_end:
            self._status.update(text)
            return
        step = 10 * event.get("bytes", 0) // max(event.get("total_bytes", 1), 1)
        now = (phase, event["model"], event.get("step"), step)
        if now != self._last:
            self._last = now
            self._console.print(text, markup=False, highlight=False)


def _text(event: Mapping[str, Any]) -> str:
    phase, model = event["phase"], event["model"]
    if phase == "downloading":
        done, total = event["bytes"] / 1e6, event["total_bytes"] / 1e6
        return f"downloading {model}: {done:.1f} of {total:.1f} MB"
    if phase == "loading":
        size, seconds = event["memory_bytes"] / 1e6, event["seconds"]
        step = f" ({event['step']})" if event.get("step") else ""
        return f"loading {model}{step}: its process holds {size:.0f} MB after {seconds:.0f} s"
    if phase == "named":
        return str(event["note"])
    if phase == "draining":
        return f"{model}: its requests get {event['within_seconds']:g} s to finish"
    if phase in ("ready", "unloaded"):
        return f"{model} is {phase} after {event['seconds']:.1f} s"
    return f"{phase} {model}"
