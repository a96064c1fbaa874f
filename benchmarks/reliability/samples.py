"""What each process of a server holds, again and again: memory, descriptors, threads, files in
/dev/shm, and the requests that the models have in progress."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
from served import Served

from atoll.launcher.stubs import find_stubs

_SHM = Path("/dev/shm")
# Of generators: what must be zero when nothing is asked.
BUSY = ("atoll_requests_running", "atoll_requests_waiting", "atoll_kv_blocks_used")
_COUNTS = re.compile(r"^(\w+)\{(.*)\} ([0-9.e+-]+)$", re.MULTILINE)


class Held(NamedTuple):
    """Of one process: memory in MB of 2**20 bytes.

    own_mb: what only it has, and what cannot be read from a file again; file_mb: what only it has
    of files, such as the word vectors that texts have needed so far. The system can take these
    pages back.
    """

    pid: int
    rss_mb: float
    pss_mb: float
    own_mb: float
    file_mb: float
    files: int
    threads: int


@dataclass(frozen=True)
class Sample:
    """processes: by what they are. shm: number and bytes of the server's files. busy: ``BUSY``.
    load: the machine's load average."""

    seconds: float
    processes: dict[str, Held]
    shm_files: int
    shm_bytes: int
    busy: dict[str, float]
    load: float


@dataclass
class Sampler:
    """``with``: a thread that takes a sample every ``period_s``."""

    served: Served
    period_s: float = 5.0
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=60)

    def now(self) -> float:
        """Seconds since the first sample."""
        return time.monotonic() - self.began

    def take(self) -> Sample:
        """Now."""
        files = [*shm_files(self.served.identity)]
        num_bytes = 0
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                num_bytes += file.stat().st_blocks * 512
        return Sample(self.now(), _processes(self.served), len(files), num_bytes,
                      busy(self.served), os.getloadavg()[0])  # fmt: skip

    def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(psutil.Error, httpx.HTTPError, OSError):
                self.samples.append(self.take())
            self._stopping.wait(self.period_s)


def shm_files(identity: str) -> list[Path]:
    """Those of one server."""
    return [*_SHM.glob(f"{identity}_*")]


def counters(served: Served) -> dict[str, dict[str, float]]:
    """The gateway's /metrics: values by labels, by name."""
    page = httpx.get(f"{served.target.http}/metrics", timeout=30).text
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in _COUNTS.findall(page):
        found.setdefault(name, {})[labels] = float(value)
    return found


def busy(served: Served) -> dict[str, float]:
    """Sums over the models."""
    page = counters(served)
    return {name: sum(page.get(name, {}).values()) for name in BUSY}


def _processes(served: Served) -> dict[str, Held]:
    server = served.server
    launcher = psutil.Process(server.process.pid)
    found = {"launcher": launcher}
    for child in launcher.children():
        words = " ".join(child.cmdline())
        for name in ("tritonserver", "gateway", "reaper"):
            if name in Path(child.cmdline()[0]).name or f"{name}." in words:
                found.setdefault(name, child)
    for stub in find_stubs(server.tritonserver.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            found[stub.model] = psutil.Process(stub.pid)
    held = {}
    for name, process in found.items():
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            held[name] = _held(process)
    return held


def _held(process: psutil.Process) -> Held:
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(size) / 1024 for name, size, _ in (line.split() for line in lines)}
    own = sizes["Private_Dirty:"] + sizes["Swap:"]
    return Held(
        process.pid, sizes["Rss:"], sizes["Pss:"], own, sizes["Private_Clean:"],
        process.num_fds(), process.num_threads(),
    )  # fmt: skip
