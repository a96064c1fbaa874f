"""The admin server of ``atoll serve``: a Unix socket for this user and, with a key, a TCP port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp

from atoll.errors import ConfigError, NotReady
from atoll.launcher.admin import sockets
from atoll.launcher.admin.activity import Activity
from atoll.launcher.admin.adapters import AdapterControl
from atoll.launcher.admin.app import application
from atoll.launcher.admin.control import ModelControl
from atoll.launcher.admin.idle import IdleModels

_START_S = 20.0


class AdminServer:
    """``start``, ``stop``.

    about: told by ``atoll ps``. key: for everybody who does not come over the Unix socket.
    allows_adapters: the gateway's clients may load adapters without it.
    address: (host, port) of the TCP port; None: none.

    Attributes:
        control: of the models. idle: those that sleep. path: of the Unix socket.
    """

    def __init__(
        self, control: ModelControl, adapters: AdapterControl, about: Mapping[str, Any],
        key: str | None, address: tuple[str, int] | None = None, allows_adapters: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        if address is not None and key is None:
            raise ConfigError("--admin-port needs a key: --admin-key-file")
        self.control = control
        # What has a checkpoint is ours: others have none.
        self._activity = Activity(
            control.process.metrics_url,
            lambda: {m.name for m in control.served.loaded().values() if m.model_id},
        )
        self.idle = IdleModels(control, self._activity, say)
        self._own, self._keyed = application(
            control, adapters, self.idle, self._activity, about, key, allows_adapters
        )
        self._address = address
        self._sockets: list[socket.socket] = []
        self._threads: list[_Thread] = []
        self.path = sockets.path_of(control.process.id)

    def start(self) -> None:
        """Returns once it answers.

        Raises:
            ConfigError: the socket's folder or the port cannot be used.
        """
        own = sockets.listen(self.path)
        self._sockets = [own]
        self._serve(self._own, own)
        if self._address is not None:
            host, port = self._address
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            tcp = socket.socket(family)
            self._sockets.append(tcp)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tcp.bind((host, port))
            except OSError as error:
                raise ConfigError(f"--admin-port {port} on {host}: {error}") from error
            self._serve(self._keyed, tcp)
        self._activity.start()
        self.idle.start()

    def stop(self) -> None:
        """Ends all connections."""
        self._activity.stop()
        self.idle.stop()
        for thread in self._threads:
            thread.stop()
        for one in self._sockets:
            if one.family == socket.AF_UNIX:
                sockets.remove(one)
            else:
                one.close()
        self._sockets, self._threads = [], []

    def _serve(self, app: ASGIApp, one: socket.socket) -> None:
        thread = _Thread(app, one)
        self._threads.append(thread)
        thread.start()


class _Thread:
    """uvicorn with one socket, on a thread."""

    def __init__(self, app: ASGIApp, one: socket.socket) -> None:
        import uvicorn

        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", server_header=False,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        # It closes the socket that it gets.
        self._server, self._socket = uvicorn.Server(config), one.dup()
        self._thread = threading.Thread(target=self._run, name="atoll-admin", daemon=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        self._thread.start()
        ended = threading.Event()
        for _ in range(int(_START_S / 0.01)):
            if self._server.started:
                return
            ended.wait(0.01)
        raise NotReady(f"the admin server has not started within {_START_S:.0f} s")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5)
