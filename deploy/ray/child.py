"""A child process of a replica: ``atoll serve`` on ports of its own, or ``atoll worker``.

It ends with the process that started it, however that ends, and that process ends with it: Ray then
sends no more requests there and starts another.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence

_LOOK_S = 0.5


class Child:
    """Runs ``command`` until ``stop``.

    The kernel ends it with the thread that started it (setpriv, of util-linux): call this from a
    thread that lives as long as the process.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig=SIGTERM", *command],
            stdin=subprocess.DEVNULL, env={**os.environ, **environment},
        )  # fmt: skip
        self._is_stopping = False
        threading.Thread(target=self._watch, name="atoll-child", daemon=True).start()

    def wait_ready(self, url: str, within_s: float) -> None:
        """Returns once ``url`` answers 200. Raises TimeoutError."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except OSError:  # not there yet, or an answer of 503
                time.sleep(_LOOK_S)
        self.stop(0)
        raise TimeoutError(f"{url} was not ready within {within_s:g} s")

    def stop(self, within_s: float) -> None:
        """Lets it finish its requests; kills it after ``within_s``."""
        self._is_stopping = True
        self._process.terminate()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _watch(self) -> None:
        status = self._process.wait()
        if not self._is_stopping:
            print(f"atoll has ended with status {status}", file=sys.stderr, flush=True)
            os._exit(1)


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
