"""The followers of rank 0's own machine, as its child processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from atoll.runner.ranks.connection import KEY

_MODULE = "atoll.runner.ranks.follower"
_END_S = 5.0


class LocalFollower:
    """A follower that this process has started, in the same process group."""

    def __init__(self, rank: int, address: str, key: str, scratch: Path, num_threads: int) -> None:
        """scratch: the folder that a follower removes if this process is killed."""
        arguments = [f"--leader={address}", f"--rank={rank}", f"--local-rank={rank}"]
        arguments += [f"--parent={os.getpid()}", f"--scratch={scratch}"]
        if _is_in_stub():
            arguments += [f"--server={os.getppid()}"]
        environment = {
            **os.environ, KEY: key, "OMP_NUM_THREADS": str(num_threads), "PYTHONSAFEPATH": "1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, *arguments], env=environment, stdin=subprocess.DEVNULL
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def end(self, within_s: float) -> str | None:
        """How it has ended; None: it still runs after ``within_s``."""
        try:
            status = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None
        if status < 0:
            return f"was ended by signal {-status} ({signal.Signals(-status).name})"
        return f"has ended with status {status}"

    def kill(self) -> None:
        """Ends it at once, even if it is stopped (SIGSTOP)."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self.end(_END_S)


def _is_in_stub() -> bool:
    """Whether Triton has started this process."""
    return "c_python_backend_utils" in sys.modules
