"""Waits until a started server can be used, or reports why it cannot."""

from __future__ import annotations

import http.client
import subprocess
import time
import urllib.request
from collections.abc import Sequence

from atoll.catalogue import ServedModel
from atoll.errors import NotReady
from atoll.launcher.canary import Probe
from atoll.launcher.logs import LogPump
from atoll.launcher.startup import Startup


class Start:
    """One start of one process. ``deadline``: in ``time.monotonic()``.

    Every method raises NotReady: a model failed to load, the server ended, or the time is up.
    """

    def __init__(
        self, process: subprocess.Popen[str], log: LogPump, probe: Probe, startup: Startup,
        deadline: float,
    ) -> None:  # fmt: skip
        self._process, self._log, self._probe, self._deadline = process, log, probe, deadline
        self._startup = startup

    def wait_for_server(self, server_id: str, http_url: str) -> None:
        """Waits until gRPC and HTTP answer; Triton opens HTTP a moment after gRPC."""
        with self._startup.phase("server"):
            while self._probe.server_name() != server_id:
                self._go_on("the server was not up in time")
                time.sleep(0.05)
            while not _is_http_up(http_url, server_id):
                self._go_on(f"{http_url} does not answer")
                time.sleep(0.01)

    def wait_for_models(self, models: Sequence[ServedModel]) -> None:
        """Waits until every model has answered a request."""
        for model in models:
            with self._startup.phase("first answer", model.name):
                self._probe.check(model, timeout_s=max(1.0, self._deadline - time.monotonic()))

    def _go_on(self, late: str) -> None:
        has_ended = self._process.poll() is not None
        if has_ended:
            self._log.join(timeout_s=5)
        reasons = [f"model {k!r} failed to load: {v}" for k, v in self._log.failures.items()]
        if reasons:
            raise NotReady("\n".join(reasons))
        if has_ended:
            raise NotReady(
                f"the server ended with status {self._process.returncode}\n{self._log.tail()}"
            )
        if time.monotonic() > self._deadline:
            raise NotReady(f"{late}\n{self._log.tail()}")


def _is_http_up(url: str, server_id: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2", timeout=10) as response:
            found = response.read()
    except (OSError, http.client.HTTPException):  # the second: what answers speaks no HTTP
        return False
    if server_id.encode() not in found:
        raise NotReady(f"{url} belongs to another server")
    return True
