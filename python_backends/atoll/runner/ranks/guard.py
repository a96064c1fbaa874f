"""A follower's second thread: sends a sign of life every second, and ends the process with rank 0.

It also ends it with the process that started it: rank 0, or ``atoll worker``. The main thread may
be blocked in a collective whose other ranks have ended, on a GPU forever. The guard also kills a
stub whose server was killed: such a stub hangs in its exit while it holds Python's lock, so that
none of its own threads can end it.
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
from typing import NoReturn

from atoll.runner.ranks import group
from atoll.runner.ranks.connection import Peer
from atoll.runner.ranks.messages import LOST, Alive

_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Leader:
    """Rank 0 on the same machine, which has started the follower.

    server: its parent, if it is a stub. scratch: its folder, which the follower removes if rank 0
    was killed.
    """

    server: int | None
    scratch: Path


class Guard:
    """Works from ``start`` until ``release``.

    parent: the process that has started this one. leader: None if rank 0 is on another machine.
    alive_fd: a pipe to the parent, for the same signs of life.
    """

    def __init__(self, parent: int, leader: Leader | None, alive_fd: int | None = None) -> None:
        self._parent, self._leader, self._alive_fd = parent, leader, alive_fd
        if alive_fd is not None:
            os.set_blocking(alive_fd, False)  # the parent may not read
        self._peer: Peer | None = None
        self._is_connected = threading.Event()
        self._is_released = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="atoll-guard", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def watch(self, peer: Peer) -> None:
        """From now on, the process also ends with this connection to rank 0."""
        self._peer = peer
        self._is_connected.set()

    def release(self) -> None:
        """Lets the follower end by itself."""
        self._is_released.set()

    def _watch(self) -> None:
        while not self._is_released.is_set():
            if self._alive_fd is not None:
                with contextlib.suppress(OSError):
                    os.write(self._alive_fd, b".")
            is_gone = self._is_disconnected() or self._is_orphaned()
            if is_gone and not self._is_released.is_set():
                leave(self._leader)

    def _is_disconnected(self) -> bool:
        """Takes a second, unless it is true."""
        if self._peer is None:
            self._is_connected.wait(_INTERVAL_S)
            return False
        poller = select.poll()
        # Not POLLIN: the main thread reads the messages.
        poller.register(self._peer.fileno(), select.POLLRDHUP)
        if poller.poll(_INTERVAL_S * 1000):
            return True
        try:
            self._peer.send(Alive())
        except OSError:
            return True
        return False

    def _is_orphaned(self) -> bool:
        if os.getppid() != self._parent:
            return True
        server = None if self._leader is None else self._leader.server
        if server is None or _parent_of(self._parent) == server:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._parent, signal.SIGKILL)
        return True


def leave(leader: Leader | None, status: int = LOST) -> NoReturn:
    """Ends this process at once, and removes what rank 0 may have left behind."""
    if leader is not None:
        shutil.rmtree(leader.scratch, ignore_errors=True)
    group.remove_shared_memory()
    os._exit(status)


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
