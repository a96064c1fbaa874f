"""Runs the ranks of a further machine (``atoll worker``), and restarts them when they end.

They wait until rank 0 listens. If rank 0 ends or one of them fails, all of them end and are started
again, so that a model that is loaded again finds them waiting. After the first SIGTERM, ranks that
are connected continue until rank 0 ends: machines are often stopped together, and open requests
should finish. If this process is killed, its ranks end by themselves. A rank that gives no sign of
life for ``timeout_s`` (one that is stopped, say) is killed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from atoll.runner.ranks.connection import parse_address
from atoll.runner.ranks.messages import REFUSED

logger = logging.getLogger(__name__)

_MODULE = "atoll.runner.ranks.follower"
_LOOK_S = 0.1
_PAUSE_S = 1.0


class _Rank:
    """A process of a rank, and when its last sign of life came."""

    def __init__(self, arguments: Sequence[str], timeout_s: float) -> None:
        self._timeout_s, self._last = timeout_s, math.inf  # until the first
        self._pipe, writing = os.pipe()
        os.set_blocking(self._pipe, False)
        self.process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, *arguments, f"--alive-fd={writing}"],
            stdin=subprocess.DEVNULL, pass_fds=(writing,),
        )  # fmt: skip
        os.close(writing)

    def is_running(self) -> bool:
        """Kills it if it has been silent for too long."""
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            if os.read(self._pipe, 4096):
                self._last = now
        if now - self._last > self._timeout_s:
            logger.warning("a rank has given no sign of life for %g s; ending it", self._timeout_s)
            self.end()
        return self.process.poll() is None

    def end(self) -> None:
        """Kills it if it runs."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends it, and frees what this process holds of it."""
        self.end()
        os.close(self._pipe)


class Worker:
    """Ranks ``first_rank`` and those after it, ``count`` in all.

    leader: HOST:PORT of rank 0. timeout_s: seconds without a sign of life after which a rank is
    killed.
    """

    def __init__(self, leader: str, first_rank: int, count: int, timeout_s: float) -> None:
        """Raises ConfigError: ``leader`` is no address."""
        parse_address(leader)
        self._leader, self._first, self._count = leader, first_rank, count
        self._timeout_s = timeout_s
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
        ranks = [self._started(local) for local in range(self._count)]
        try:
            is_told = False
            while all([rank.is_running() for rank in ranks]) and self._num_asked < 2:
                if self._num_asked and not is_told:
                    is_told = True
                    for rank in ranks:
                        rank.process.terminate()  # which ends those that have no connection
                time.sleep(_LOOK_S)
            return [rank.process.poll() or 0 for rank in ranks]
        finally:
            for rank in ranks:
                rank.close()

    def _started(self, local_rank: int) -> _Rank:
        rank = self._first + local_rank
        arguments = [f"--leader={self._leader}", f"--rank={rank}", f"--local-rank={local_rank}"]
        return _Rank([*arguments, f"--parent={os.getpid()}"], self._timeout_s)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._num_asked += 1
