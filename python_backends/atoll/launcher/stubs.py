"""The processes of a server's models: which exist, which have ended, and which hang.

tritonserver starts one stub for each instance of a Python model; its command line names the
model's file. Only reads /proc, so that a check every half second costs microseconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from atoll.launcher.installation import STUB

logger = logging.getLogger(__name__)

_PROC = Path("/proc")
# Numbers of wait4 and waitid, in which the server blocks if it gave up a stub that still runs.
_WAITS = {"x86_64": ("61", "247"), "aarch64": ("260", "95")}
# The server ends a stub by itself within this time after a failed load.
_ABANDONED_S = 10.0


@dataclass(frozen=True)
class Stub:
    """One process of one model; ``created`` tells it from a later process with the same pid."""

    pid: int
    model: str
    created: float

    def is_running(self) -> bool:
        """Whether it has not ended. A stopped process counts as running."""
        try:
            process = psutil.Process(self.pid)
            return (
                process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False

    def is_stopped(self) -> bool:
        """Whether a signal has stopped it, so that it answers nobody until another one comes."""
        try:
            return self.is_running() and (
                psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
            )
        except psutil.NoSuchProcess:
            return False

    def kill(self) -> None:
        """Ends it at once."""
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal if the process has a handler for it; otherwise the signal would end it."""
        with contextlib.suppress(OSError, StopIteration):
            status = (_PROC / str(self.pid) / "status").read_text().splitlines()
            caught = next(line for line in status if line.startswith("SigCgt:"))
            if self.is_running() and int(caught.split()[1], 16) >> (number - 1) & 1:
                os.kill(self.pid, number)


def find_stubs(server: int) -> list[Stub]:
    """The current stubs of a server."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(server).children():
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                words = process.cmdline()
                # <stub> <repository>/<model>/<version>/model.py ...
                if Path(words[0]).name == STUB:
                    model = Path(words[1]).parents[1].name
                    found.append(Stub(process.pid, model, process.create_time()))
    return found


def abandoned(server: int, stubs: Iterable[Stub]) -> list[Stub]:
    """Running stubs whose end the server waits for; while a model loads, it would wait forever.

    Triton before 24.12 gives up on a stub that was silent for a second (stopped, or on a machine
    too busy to run it) and then waits for it to end by itself, which it does not. Empty if /proc
    does not show what a thread waits for.
    """
    running = {str(stub.pid): stub for stub in stubs if stub.is_running()}
    waited = {argument for argument in _waited_for(server) if argument in running}
    return [running[pid] for pid in sorted(waited)]


def _waited_for(server: int) -> Iterable[str]:
    """Ids of the processes that threads of the server wait for."""
    numbers = _WAITS.get(platform.machine(), ())
    with contextlib.suppress(OSError):
        for thread in (_PROC / str(server) / "task").iterdir():
            with contextlib.suppress(OSError, ValueError):
                call, *arguments = (thread / "syscall").read_text().split()
                if call in numbers:
                    # waitid takes the kind of id before the id.
                    yield from (str(int(argument, 16)) for argument in arguments[:2])


class EndAbandoned:
    """While models load, ends processes that the server has given up on, so that it continues.

    names: models whose process was ended.
    """

    def __init__(self, server: int) -> None:
        self.names: set[str] = set()
        self._server = server
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="end-abandoned", daemon=True)

    def __enter__(self) -> EndAbandoned:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        since: dict[Stub, float] = {}
        while not self._stopped.wait(1.0):
            now = time.monotonic()
            found = abandoned(self._server, find_stubs(self._server))
            since = {stub: since.get(stub, now) for stub in found}
            for stub, began in since.items():
                if now - began >= _ABANDONED_S:
                    self.names.add(stub.model)
                    logger.error(
                        "the server has given up the process of model %r while it loads; ending it",
                        stub.model,
                    )
                    stub.kill()
