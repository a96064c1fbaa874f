"""The end of a model's work: once, when it is unloaded or, before that, when the launcher asks.

Triton does not call ``finalize`` while requests are open, and no request but an endless one keeps a
server from ending. So a launcher whose patience is over sends SIGUSR1 to the model's process: what
is open is answered with an error, and everything that comes later is refused.
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
    """``end`` answers what is open and ends the threads; it is called once, by whoever is first."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._is_over = False
        is_main = threading.current_thread() is threading.main_thread()
        # Elsewhere, signals are somebody else's.
        if is_main and Path("/proc/self/exe").resolve().name == _STUB:
            self._listen()

    def finish(self) -> None:
        """Returns when the work has ended."""
        with self._lock:
            if not self._is_over:
                self._is_over = True
                self._end()

    def _listen(self) -> None:
        """Python runs a handler on the main thread, which here waits in the stub's own code; the
        wake-up descriptor is written at once, whatever that thread does."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.signal(SIGNAL, lambda number, frame: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(reading,), name="ending", daemon=True).start()

    def _wait(self, reading: int) -> None:
        while int.from_bytes(os.read(reading, 1), "little") != SIGNAL:
            continue
        self.finish()
