"""Keeps a server running: restarts it whenever it ends, with growing pauses, without limit.

Meanwhile the gateway answers 503. A model whose process crashed is loaded again by the server's
watchdog. If clients are connected to the server itself, the server is restarted instead, since it
never answers the requests of a crashed process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable

import psutil

from atoll.errors import AtollError
from atoll.launcher.processes import how_ended
from atoll.launcher.server import ServerProcess

_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 60.0
# A server that ran for this long has recovered: the pauses start over.
_RECOVERED_S = 60.0


class Supervisor:
    """Call ``run`` in the thread that started the server; an exception there ends it.

    Args:
        own_pids: our processes that are connected to the server, such as the gateway's.
        say: called with a line for each event.
    """

    def __init__(
        self,
        process: ServerProcess,
        own_pids: Callable[[], Iterable[int]],
        say: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._process, self._own_pids, self._say, self._sleep = process, own_pids, say, sleep
        self._ended_on_purpose = False
        process.on_crash = self._start_again_for

    def run(self) -> None:
        """Only returns by an exception."""
        pause_s = 0.0
        while True:
            began = time.monotonic()
            code = self._process.wait()
            # One that we have ended for a model did not fail itself.
            if self._ended_on_purpose or time.monotonic() - began >= _RECOVERED_S:
                pause_s = 0.0
            if not self._ended_on_purpose:
                self._say(f"{self._process.log_tail()}\nthe server {how_ended(code)}")
            self._ended_on_purpose = False
            pause_s = self._start(pause_s)

    def _start(self, pause_s: float) -> float:
        """Tries until the server is up; returns the pause before the next start."""
        while True:
            self._say(f"starting it again{f' in {pause_s:.0f} s' if pause_s else ''}")
            self._sleep(pause_s)
            pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LAST_PAUSE_S)
            try:
                self._process.restart()
            except AtollError as error:
                self._say(str(error))
            else:
                self._say(f"ready again after {self._process.startup_s:.1f} s")
                return pause_s

    def _start_again_for(self, model: str) -> bool:
        if not self._is_connected_to_others():
            return False
        self._say(
            f"the process of model {model!r} has ended, and the server does not answer what it held"
        )
        self._ended_on_purpose = True
        self._process.kill()
        return True

    def _is_connected_to_others(self) -> bool:
        """Whether any process other than ours is connected to the server's ports."""
        options = self._process.options
        ports = {options.http_port, options.grpc_port}
        clients = {c.raddr for c in _connections(self._process.pid) if c.laddr.port in ports}
        for pid in {os.getpid(), *self._own_pids()}:
            clients -= {c.laddr for c in _connections(pid)}
        return bool(clients)


def _connections(pid: int) -> list[psutil._ntuples.pconn]:
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(pid).net_connections(kind="tcp")
        return [c for c in found if c.raddr and c.status == psutil.CONN_ESTABLISHED]
    return []
