"""Ends a model's work when it is unloaded or, before that, when the launcher requests it.

Triton does not call ``finalize`` while requests are open, so that an endless request would keep the
server from ending. After its timeout, the launcher therefore sends SIGUSR1 to the model's process:
open requests are answered with an error, and later ones are refused.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

SIGNAL = signal.SIGUSR1
_STUB = "triton_python_backend_stub"


class Shutdown:
    """Calls ``end``, which answers open requests and ends the threads, exactly once."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._is_over = False
        is_main = threading.current_thread() is threading.main_thread()
        # Other processes use their signals for themselves.
        if is_main and Path("/proc/self/exe").resolve().name == _STUB:
            self._listen()

    def finish(self) -> None:
        """Returns when the work has ended."""
        with self._lock:
            if not self._is_over:
                self._is_over = True
                self._end()

    def _listen(self) -> None:
        """Uses a wake-up descriptor, which is written at once: Python would run a handler on the
        main thread, which is blocked in the stub's own code."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.signal(SIGNAL, lambda number, frame: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(reading,), name="ending", daemon=True).start()

    def _wait(self, reading: int) -> None:
        while int.from_bytes(os.read(reading, 1), "little") != SIGNAL:
            continue
        self.finish()
