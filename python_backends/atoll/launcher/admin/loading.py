"""One model loaded into a running server, with what can be told of it meanwhile.

Triton says nothing until a load has succeeded or failed. The model's process tells its phases, and
its memory shows that it goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from atoll.catalogue import ServedModel
from atoll.catalogue.render import CONFIG, MODEL
from atoll.errors import NotReady
from atoll.launcher.canary import Probe
from atoll.launcher.logs import reason
from atoll.launcher.startup import Startup
from atoll.launcher.stubs import EndAbandoned, find_stubs

# Called with what happens: {"phase": ..., and what belongs to it}.
Report = Callable[[Mapping[str, Any]], None]

_FAILED = re.compile(r"version \d+ is at UNAVAILABLE state: (.*)", re.DOTALL)
_LOOK_S = 0.5
_END_S = 10.0
# An entry that loads at once, whatever failed under its name.
_EMPTY = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"


def bring_up(
    probe: Probe, server: int, model: ServedModel, timeout_s: float, report: Report,
    startup: Startup,
) -> None:  # fmt: skip
    """Loads a model and waits for its first answer; other models go on answering.

    startup: knows what its process does meanwhile.

    Raises:
        NotReady: with the model's own error.
    """
    report({"phase": "starting", "model": model.name})
    try:
        with EndAbandoned(server), _told(server, model.name, report, startup):
            probe.load(model.name, timeout_s)
        report({"phase": "warming up", "model": model.name})
        probe.check(model, timeout_s)
    except NotReady as error:
        raise NotReady(f"model {model.name!r}: {why(error)}") from error


def why(error: Exception) -> str:
    """The model's own message, without Triton's words around it."""
    text = str(error)
    found = _FAILED.search(text)
    if found is not None:
        return reason(found[1]).rstrip().removesuffix(";")
    return re.sub(r"^model '[^']*': ", "", text)


def clear_failure(probe: Probe, server: int, folder: Path, timeout_s: float) -> None:
    """Lets Triton forget that the entry in ``folder`` has failed to load, and removes the entry.

    A server counts as not ready as long as the last load of any model has failed, also after the
    entry is gone: only a successful load under its name ends that.
    """
    (folder / MODEL).write_text(_EMPTY)
    with contextlib.suppress(NotReady):
        probe.load(folder.name, timeout_s)
        probe.unload(folder.name, timeout_s)
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline and any(s.model == folder.name for s in find_stubs(server)):
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def touch(model: ServedModel) -> None:
    """Makes Triton load the entry although it is loaded: files that are unchanged are not read.

    Raises:
        OSError: the repository cannot be written to.
    """
    for path in (model.folder / CONFIG, *(model.folder / v / "model.py" for v in model.versions)):
        if path.is_file():
            os.utime(path)


@contextlib.contextmanager
def _told(server: int, name: str, report: Report, startup: Startup) -> Iterator[None]:
    """Reports what the model's new processes do, and their size while they grow."""
    before, began, is_over = set(find_stubs(server)), time.monotonic(), threading.Event()

    def tell() -> None:
        while not is_over.wait(_LOOK_S):
            new = [s for s in find_stubs(server) if s.model == name and s not in before]
            if new:
                size = sum(memory_of(stub.pid) for stub in new)
                seconds = round(time.monotonic() - began, 1)
                steps = [phase.name for phase in startup.current() if phase.model == name]
                report({
                    "phase": "loading", "model": name, "step": ", ".join(steps),
                    "memory_bytes": size, "seconds": seconds,
                })  # fmt: skip

    thread = threading.Thread(target=tell, name="load-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(timeout=5)


def memory_of(pid: int) -> int:
    """Resident bytes of a process and its children; 0 if it has ended."""
    size = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                size += one.memory_info().rss
    return size
