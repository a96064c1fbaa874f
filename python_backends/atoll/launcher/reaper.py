"""Ends a server whose launcher died without stopping it, and cleans up after it.

Run as a script whose standard input is a pipe from the launcher: end of file means that the
launcher is gone, a line that it has cleaned up itself. Only imports the standard library, so that
it takes a few megabytes; ``ServerProcess.stop`` uses the same functions.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")


def end_group(leader: int, grace_s: float) -> None:
    """Asks the process group to stop, and kills the rest after ``grace_s``.

    A stub whose server was killed ignores the request, hence the second signal.
    """
    _signal(leader, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while _is_alive(leader) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(leader, signal.SIGKILL)


def remove_shared_memory(prefix: str) -> None:
    """Deletes the shared memory regions whose names start with ``prefix``."""
    for path in _SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def main() -> None:
    """Arguments: process group, seconds of grace, shared memory prefix, scratch folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    group, grace_s, prefix, scratch = sys.argv[1:]
    if sys.stdin.readline():
        return
    end_group(int(group), float(grace_s))
    remove_shared_memory(prefix)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
