"""Runs the ranks of a further machine (``atoll worker``), and restarts them when they end.

They wait until rank 0 listens. If rank 0 ends or one of them fails, all of them end and are started
again, so that a model that is loaded again finds them waiting. After the first SIGTERM, ranks that
are connected continue until rank 0 ends: machines are often stopped together, and open requests
should finish. If this process is killed, its ranks end by themselves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from types import FrameType

from atoll.runner.ranks.follower import REFUSED, parse_address

logger = logging.getLogger(__name__)

_MODULE = "atoll.runner.ranks.follower"
_LOOK_S = 0.1
_PAUSE_S = 1.0


class Worker:
    """Ranks ``first_rank`` and those after it, ``count`` in all. leader: HOST:PORT of rank 0."""

    def __init__(self, leader: str, first_rank: int, count: int) -> None:
        """Raises ConfigError: ``leader`` is no address."""
        parse_address(leader)
        self._leader, self._first, self._count = leader, first_rank, count
        self._num_asked = 0  # to stop

    def run(self) -> int:
        """Returns when stopped: 0, or 1 if rank 0 refused the ranks."""
        before = signal.signal(signal.SIGTERM, self._on_signal)
        # A shell lets its background commands ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            while not self._num_asked:
                if REFUSED in self._run_once():
                    return 1
                time.sleep(0.0 if self._num_asked else _PAUSE_S)
        except KeyboardInterrupt:
            logger.warning("stopped")
        finally:
            signal.signal(signal.SIGTERM, before)
        return 0

    def _run_once(self) -> list[int]:
        """Runs all ranks until one ends; returns their exit statuses."""
        processes = [self._started(local) for local in range(self._count)]
        try:
            is_told = False
            while all(process.poll() is None for process in processes) and self._num_asked < 2:
                if self._num_asked and not is_told:
                    is_told = True
                    for process in processes:
                        process.terminate()  # which ends those that have no connection
                time.sleep(_LOOK_S)
            return [process.poll() or 0 for process in processes]
        finally:
            for process in processes:
                with contextlib.suppress(OSError):
                    process.kill()
                process.wait()

    def _started(self, local_rank: int) -> subprocess.Popen[bytes]:
        rank = self._first + local_rank
        arguments = [f"--leader={self._leader}", f"--rank={rank}", f"--local-rank={local_rank}"]
        arguments += [f"--parent={os.getpid()}"]
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE, *arguments], stdin=subprocess.DEVNULL
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._num_asked += 1
