"""The phases of a start: what is being done, for which model, since when, and what takes too long.

Phases come from the launcher itself (checkpoint, server, first answer), from Triton's log (process)
and from the models' processes (kernels, weights, warm-up; see ``atoll.progress``).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from atoll import progress

# Whoever waits is told within a minute.
_SLOW_S, _AGAIN_S, _LOOK_S = 30.0, 30.0, 1.0
_LOADING = re.compile(r"\] \"?loading: (?P<model>.+):(?P<version>\d+)\"?$")


class Phase(NamedTuple):
    """A phase, by its name, of a version of a model; "" where it has none."""

    name: str
    model: str = ""
    version: str = ""

    def __str__(self) -> str:
        version = f", version {self.version}" if self.version not in ("", "1") else ""
        return f"{self.model}{version}: {self.name}" if self.model else self.name

    def facts(self) -> dict[str, Any]:
        """Members of a log line."""
        return {"phase": self.name, "model": self.model, "version": self.version}


@dataclass
class _Open:
    began: float
    told: float
    pid: int | None = None


class Startup:
    """Collects phases; any thread may call.

    say: called with a sentence, and its facts, when a phase begins or is slow.
    """

    def __init__(self, say: Callable[[str, dict[str, Any]], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._open: dict[Phase, _Open] = {}
        self._seconds: dict[Phase, float] = {}
        self._models: dict[int, tuple[str, str]] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        """Forgets earlier starts, and begins to watch."""
        with self._lock:
            self._open, self._seconds, self._models = {}, {}, {}
        self.stop()
        self._stopped = threading.Event()
        watch = threading.Thread(
            target=self._watch, args=(self._stopped,), name="startup", daemon=True
        )
        watch.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()

    @contextmanager
    def phase(self, name: str, model: str = "") -> Iterator[None]:
        """``with``: one of the launcher's own phases."""
        phase = Phase(name, model)
        self._begin(phase)
        try:
            yield
        finally:
            self._end(phase)

    def read(self, line: str) -> bool:
        """Whether a line of the server's output tells of a phase, and nothing else."""
        told = progress.read(line)
        if told is not None:
            self._take(told)
            return True
        if loading := _LOADING.search(line):
            self._begin(Phase("process", loading["model"], loading["version"]))
        return False

    def failed(self, model: str) -> None:
        """A model was not loaded: nothing of it goes on."""
        with self._lock:
            self._open = {p: since for p, since in self._open.items() if p.model != model}

    def current(self) -> list[Phase]:
        """What is being done now."""
        with self._lock:
            return list(self._open)

    def seconds(self) -> dict[Phase, float]:
        """How long each phase took, in the order of their ends."""
        with self._lock:
            return dict(self._seconds)

    def _take(self, told: dict[str, Any]) -> None:
        pid = int(told["pid"])
        if "model" in told:
            # A reload's process may have the number of an earlier one.
            self._models[pid] = (told["model"], told["version"])
            self._end(Phase("process", *self._models[pid]))
        elif pid in self._models:
            phase = Phase(told["phase"], *self._models[pid])
            if told["state"] == "begin":
                self._begin(phase, pid)
            else:
                self._end(phase)

    def _begin(self, phase: Phase, pid: int | None = None) -> None:
        now = time.monotonic()
        with self._lock:
            self._open[phase] = _Open(now, now, pid)
        self._say(f"{phase}", phase.facts())

    def _end(self, phase: Phase) -> None:
        with self._lock:
            found = self._open.pop(phase, None)
            if found is not None:
                self._seconds[phase] = time.monotonic() - found.began

    def _watch(self, stopped: threading.Event) -> None:
        while not stopped.wait(_LOOK_S):
            now = time.monotonic()
            with self._lock:
                alive = {p: o for p, o in self._open.items() if _is_running(o.pid)}
                self._open = alive
                slow = [(p, o) for p, o in alive.items() if now - o.told >= _AGAIN_S]
                for _, one in slow:
                    one.told = now
            for phase, one in slow:
                seconds = now - one.began
                if seconds >= _SLOW_S:
                    clock = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
                    self._say(
                        f"{phase} goes on since {clock}, for {seconds:.0f} s",
                        {**phase.facts(), "seconds": round(seconds, 1)},
                    )


def _is_running(pid: int | None) -> bool:
    return pid is None or Path(f"/proc/{pid}").exists()
