"""A follower's second thread: sends a sign of life every second, and ends the process with rank 0.

The main thread may be blocked in a collective whose other ranks have ended, on a GPU forever. The
guard also kills a stub whose server was killed: such a stub hangs in its exit while it holds
Python's lock, so that none of its own threads can end it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from atoll.runner.ranks import group
from atoll.runner.ranks.connection import Peer
from atoll.runner.ranks.messages import Alive

_INTERVAL_S = 1.0
LOST = 1  # exit status


@dataclass(frozen=True)
class Leader:
    """Rank 0 on the same machine.

    pid: rank 0's process. server: its parent, if it is a stub. scratch: rank 0's folder, which the
    follower removes if rank 0 was killed.
    """

    pid: int
    server: int | None
    scratch: Path


class Guard:
    """Works from ``start`` until ``release``. leader: None if rank 0 is on another machine."""

    def __init__(self, peer: Peer, leader: Leader | None) -> None:
        self._peer, self._leader = peer, leader
        self._is_released = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="atoll-guard", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def release(self) -> None:
        """Lets the follower end by itself."""
        self._is_released.set()

    def _watch(self) -> None:
        poller = select.poll()
        # Not POLLIN: the main thread reads the messages.
        poller.register(self._peer.fileno(), select.POLLRDHUP)
        while not self._is_released.is_set():
            is_gone = bool(poller.poll(_INTERVAL_S * 1000)) or self._has_lost_leader()
            try:
                self._peer.send(Alive())
            except OSError:
                is_gone = True
            if is_gone and not self._is_released.is_set():
                leave(self._leader)

    def _has_lost_leader(self) -> bool:
        leader = self._leader
        if leader is None:
            return False
        if os.getppid() != leader.pid:
            return True
        if leader.server is None or _parent_of(leader.pid) == leader.server:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader.pid, signal.SIGKILL)
        return True


def leave(leader: Leader | None) -> None:
    """Ends this process at once, and removes what rank 0 may have left behind."""
    if leader is not None:
        shutil.rmtree(leader.scratch, ignore_errors=True)
    group.remove_shared_memory()
    os._exit(LOST)


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
