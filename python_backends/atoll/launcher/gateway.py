"""The gateway beside the server: a process of its own, started again if it ends by itself.

It lives in the distribution ``atoll-client``, which knows nothing of this one: only its command
line is used here. It ends with this process, whatever ends that, since its input then closes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atoll.errors import NotReady

_MODULE = "atoll_client.gateway.main"
_NEEDED = ("atoll_client.gateway", "uvicorn", "starlette", "orjson", "httpx")
_START_S = 30.0
_RESTART_S = 1.0
# From the end of the grace until the process is killed.
_END_S = 8.0


@dataclass(frozen=True)
class GatewayOptions:
    """Where the gateway listens and whom it asks.

    grace_s: what requests in flight get to end when it stops. settings: others of its own, by name.
    """

    server: str
    metrics_url: str
    host: str = "127.0.0.1"
    port: int = 8080
    grace_s: float = 10.0
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Base URL for a client on this machine."""
        return f"http://{self.client_host}:{self.port}"

    @property
    def client_host(self) -> str:
        """Where a client on this machine finds it."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host

    def environment(self) -> dict[str, str]:
        """The gateway's settings. Not its command line: others on the machine can read that."""
        settings = {
            "server": self.server, "metrics_url": self.metrics_url,
            "hostname": self.host, "port": str(self.port),
            "shutdown_grace_s": str(self.grace_s), **self.settings,
        }  # fmt: skip
        # Not what is empty: it would hide what the user told the gateway by the same variable.
        return {f"ATOLL_GATEWAY_{name.upper()}": value for name, value in settings.items() if value}


def missing_packages() -> list[str]:
    """What has to be installed before a gateway can be started."""
    missing = []
    for name in _NEEDED:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            missing.append(name.split(".")[0])
    return missing


class GatewayProcess:
    """``start``, ``wait_ready``, ``stop``."""

    def __init__(self, options: GatewayOptions) -> None:
        self.options = options
        self.num_restarts = 0
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="atoll-gateway", daemon=True)

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the process and the thread that keeps it running."""
        self._process = self._launch()
        self._thread.start()

    def wait_ready(self) -> None:
        """Returns once it answers.

        Raises:
            NotReady: it did not in time.
        """
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.options.url}/health", timeout=2.0):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise NotReady(f"the gateway did not answer at {self.options.url} within {_START_S:.0f} s")

    def lose(self, models: Sequence[str]) -> None:
        """Has what was sent to these models before now answered with an error."""
        line = json.dumps({"lost": list(models), "before": time.monotonic()})
        process = self._process
        if process is not None and process.stdin is not None:
            # One that has ended holds no requests.
            with contextlib.suppress(OSError):
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()

    def stop(self) -> None:
        """Lets requests in flight end, then ends the process."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=self.options.grace_s + _END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._thread.join(timeout=5)

    def _launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE, "--exit-with-stdin"],
            stdin=subprocess.PIPE,
            env={**os.environ, **self.options.environment(), "PYTHONUNBUFFERED": "1"},
            # Ctrl-C is for the launcher, which then stops the gateway in order.
            start_new_session=True,
        )

    def _keep(self) -> None:
        while not self._stopping.is_set():
            assert self._process is not None
            self._process.wait()
            if self._stopping.wait(_RESTART_S):
                return
            self.num_restarts += 1
            self._process = self._launch()
