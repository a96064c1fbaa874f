"""``atoll serve`` as a user runs it, for a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from atoll.launcher import free_ports

# Test files share the cores: threads of a server that wait for each other take them from all.
# tests/server/test_readme.py and test_serve_command.py start servers as users do.
ONE_THREAD = {"ATOLL_NUM_THREADS": "1"}
# What is printed once it can be used, as text or as JSON.
_READY = ("Ctrl-C stops everything", '"event": "ready"')
ATOLL = Path(sys.executable).with_name("atoll")


class Serving:
    """A running ``atoll serve`` and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str], log: Path, ports: Mapping[str, int]) -> None:
        self.process, self.log, self.ports = process, log, ports
        self.family = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]

    def url(self, port: str = "port") -> str:
        """Of the gateway, or of one of the other ports by its flag's name."""
        return f"http://127.0.0.1:{self.ports[port]}"

    @property
    def tritonserver(self) -> psutil.Process:
        """The server that runs now."""
        (found,) = self._tritonservers()
        return found

    def has_server(self) -> bool:
        """Whether one runs: one that has ended is started again."""
        return bool(self._tritonservers())

    def _tritonservers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [
            child
            for child in children
            if child.name() == "tritonserver" and child.status() != psutil.STATUS_ZOMBIE
        ]

    def wait_for(self, text: str, count: int = 1) -> None:
        """Until the command has printed it so many times."""
        deadline = time.monotonic() + 120
        while self.log.read_text().count(text) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def examples(self) -> list[str]:
        return [x for x in self.log.read_text().splitlines() if x.startswith("curl ")]

    def stop(self, number: signal.Signals) -> None:
        """Checks that everything is gone soon after the signal."""
        self.process.send_signal(number)
        assert self.process.wait(timeout=60) == 0, self.log.read_text()
        alive = [p for p in self.family if psutil.pid_exists(p)]
        assert not [p for p in alive if psutil.Process(p).status() != psutil.STATUS_ZOMBIE]


@contextmanager
def serving(
    folder: Path, *arguments: str, program: Path = ATOLL, within_s: float = 120, **environment: str
) -> Iterator[Serving]:
    """``folder`` gets TMPDIR, where scratch folders must not stay, and the printed text."""
    scratch, log = folder / "scratch", folder / "out.txt"
    scratch.mkdir()
    names = ("port", "gateway-grpc-port", "http-port", "grpc-port", "metrics-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with log.open("w") as out:
        process = subprocess.Popen(
            [
                str(program),
                "serve",
                "--exit-timeout=3",
                *(f"--{name}={port}" for name, port in ports.items()),
                *arguments,
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(scratch), "COLUMNS": "200", **environment},
        )
    try:
        deadline = time.monotonic() + within_s
        while not any(mark in log.read_text() for mark in _READY):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Serving(process, log, ports)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=60)
        assert not [*scratch.glob("atoll-*")]
