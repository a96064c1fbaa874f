"""Ends a server and all of its children, and starts the reaper, which does so if we cannot."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from atoll.launcher import reaper


def launch(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Starts a server in a process group of its own; its whole output is in ``stdout``."""
    return subprocess.Popen(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def how_ended(code: int) -> str:
    """In words, by the exit status of ``subprocess``."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def end_with_children(process: subprocess.Popen[str], grace_s: float) -> None:
    """Asks a server, the leader of its group, to stop; kills the rest after ``grace_s``."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    # A server that has ended by itself may have left stubs in its group.
    reaper.end_group(process.pid, grace_s)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=5)
    process.wait(timeout=10)


def start_reaper(pid: int, grace_s: float, shm_prefix: str, scratch: Path) -> subprocess.Popen[str]:
    """Isolated and without site-packages, so that it starts quickly."""
    arguments = [str(pid), str(grace_s), shm_prefix, str(scratch)]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd="/",
        start_new_session=True,
    )


def dismiss(process: subprocess.Popen[str]) -> None:
    """Tells a reaper that it is no longer needed, and waits until it ends."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("done\n")
            process.stdin.close()
    process.wait(timeout=10)
