"""The gateway next to the server: a separate process, restarted if it ends unexpectedly.

It is part of the distribution ``atoll-client``, which does not depend on this one: only its command
line is used here. However this process ends, the gateway ends with it, since its input closes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll.errors import NotReady
from atoll.launcher.processes import how_ended
from atoll.weights.embedded import cache_folder

logger = logging.getLogger(__name__)

_MODULE = "atoll_client.gateway.main"
_NEEDED = (
    "atoll_client.gateway", "uvicorn", "starlette", "orjson", "httpx", "limits",
    "prometheus_client",
)  # fmt: skip
_START_S = 30.0
_RESTART_S = 1.0
# Time from the end of the grace period until the process is killed.
_END_S = 8.0


@dataclass(frozen=True)
class GatewayOptions:
    """Where the gateway listens and which servers it uses.

    grace_s: how long running requests may take when it stops. settings: its other settings, by
        name.
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
        """The host at which a client on this machine reaches it."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host

    def environment(self) -> dict[str, str]:
        """The gateway's settings. Not on its command line, which others on the machine can read."""
        settings = {
            "server": self.server, "metrics_url": self.metrics_url,
            "hostname": self.host, "port": str(self.port),
            "shutdown_grace_s": str(self.grace_s), **self.settings,
        }  # fmt: skip
        # Empty values are left out: they would hide what the user set in the same variable.
        return {f"ATOLL_GATEWAY_{name.upper()}": value for name, value in settings.items() if value}


def batch_folder(port: int) -> dict[str, str]:
    """The setting for where files and batches are kept, unless the environment has it.

    By port: of two servers on a machine, each goes on with its own batches.
    """
    if os.environ.get("ATOLL_GATEWAY_BATCH_FOLDER"):
        return {}
    return {"batch_folder": str(cache_folder() / "batches" / str(port))}


def missing_packages() -> list[str]:
    """Packages that must be installed before a gateway can be started."""
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
    """``start``, ``wait_ready``, ``stop``. note: also gets each line that it logs."""

    def __init__(
        self, options: GatewayOptions, note: Callable[[str], None] = lambda line: None
    ) -> None:
        self.options, self._note = options, note
        self.num_restarts = 0
        self._asleep: Mapping[str, str] = {}
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: threading.Thread | None = None
        self._thread = threading.Thread(target=self._keep, name="atoll-gateway", daemon=True)

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the process and the thread that restarts it."""
        self._process = self._launch()
        self._thread.start()

    def wait_ready(self) -> None:
        """Returns once it answers.

        Raises:
            NotReady: it did not answer in time.
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
        """Makes the gateway answer what was sent to these models before now with an error."""
        self._tell({"lost": list(models), "before": time.monotonic()})

    def renew(self, models: Sequence[str], unloaded: Iterable[str]) -> None:
        """Makes the gateway look at models that have come, gone or changed; ``unloaded``: all those
        that were unloaded deliberately, and are not awaited."""
        self._tell({"changed": list(models), "unloaded": sorted(unloaded)})

    def sleep(self, models: Mapping[str, str]) -> None:
        """Tells the gateway which names' models sleep, and which model each stands for."""
        self._asleep = models
        self._tell({"asleep": dict(models)})

    def _tell(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            # A process that has ended has no requests.
            with contextlib.suppress(OSError):
                process.stdin.write(json.dumps(message).encode() + b"\n")
                process.stdin.flush()

    def stop(self) -> None:
        """Lets running requests finish, then ends the process."""
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
        if self._log is not None:
            self._log.join(timeout=5)

    def _launch(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, "--exit-with-stdin"],
            stdin=subprocess.PIPE,
            env={**os.environ, **self.options.environment(), "PYTHONUNBUFFERED": "1"},
            # Ctrl-C is for the launcher, which then stops the gateway cleanly.
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
        self._log = threading.Thread(
            target=self._pass_on, args=(process,), name="atoll-gateway-log", daemon=True
        )
        self._log.start()
        return process

    def _pass_on(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip("\n")
            # Nobody may read our own output any more: the gateway's is read on, or it would wait.
            with contextlib.suppress(OSError, ValueError):
                print(line, file=sys.stderr, flush=True)
            self._note(line)

    def _keep(self) -> None:
        while not self._stopping.is_set():
            assert self._process is not None
            code = self._process.wait()
            if self._stopping.wait(_RESTART_S):
                return
            self.num_restarts += 1
            logger.warning("the gateway %s; it is started again", how_ended(code))
            self._process = self._launch()
            self.sleep(self._asleep)
