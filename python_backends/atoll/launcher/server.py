"""One tritonserver process: started, awaited, monitored, and stopped with everything cleaned up."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from atoll import progress
from atoll.catalogue import ENTRIES, ServedModel
from atoll.errors import NotReady
from atoll.launcher import reaper
from atoll.launcher.canary import Probe
from atoll.launcher.command import ADMIN_HEADER, command_line, hide_argument
from atoll.launcher.drain import drain
from atoll.launcher.installation import find_installation
from atoll.launcher.libraries import check_libraries
from atoll.launcher.logs import LogPump
from atoll.launcher.options import ServerOptions
from atoll.launcher.ports import check_free
from atoll.launcher.processes import dismiss, end_with_children, launch, start_reaper
from atoll.launcher.readiness import Start
from atoll.launcher.repositories import check_path, fetch, prepare
from atoll.launcher.startup import Startup
from atoll.launcher.stubs import EndAbandoned, find_stubs
from atoll.launcher.watchdog import Watchdog
from atoll.serving.control_key import CONTROL_KEY
from atoll.weights.embedded import EMBEDDED

logger = logging.getLogger(__name__)

# If a process is not scheduled for a while as it starts, the start that waits for it fails.
_MAX_STARTS = 3
_ARGUMENTS_READ_S = 10.0
_IDLE_GRACE_S = 2.0


class ServerProcess:
    """A server for the duration of a ``with`` block, or from ``start`` to ``stop``.

    Everything it needs is in its own scratch folder, which is also its working directory: the stub
    puts that first on sys.path, so it must hold no Python packages. A second process, the reaper,
    ends the server if this one dies.

    models, checkpoints (folders by model name and version), startup_s, num_restarts: filled in
        while it starts.
    probe, watchdog: of the server that runs now; None before.
    on_crash: called with the name of a model whose process has ended; returns true if the server
        is restarted for it, false to have the model loaded again.
    on_lost: called with the names of models whose requests, sent before now, get no answer.
    on_loaded: called with those of models that have been loaded again.
    show: called with the lines of the server's output that a user should see.
    tell: called with a sentence and its facts when a phase of a start begins, or takes long.
    """

    def __init__(
        self, options: ServerOptions, show: Callable[[str], None] | None = None,
        tell: Callable[[str, dict[str, Any]], None] = lambda text, facts: None,
    ) -> None:  # fmt: skip
        self.options = options
        self.startup = Startup(tell)
        self.id = f"atoll-{uuid.uuid4().hex[:12]}"
        self.scratch = Path(tempfile.gettempdir()) / self.id  # created by ``start``
        self.models: tuple[ServedModel, ...] = ()
        self.checkpoints: dict[str, dict[str, Path]] = {}
        self.startup_s = 0.0
        self.num_restarts = 0
        self.on_crash: Callable[[str], bool] = lambda name: False
        self.on_lost: Callable[[Sequence[str]], None] = lambda names: None
        self.on_loaded: Callable[[Sequence[str]], None] = lambda names: None
        self._started = 0.0
        self._num_starts = 0
        self._is_ready = False
        self._show = show or (lambda line: None)
        self.admin_key = secrets.token_hex(16)
        self._process: subprocess.Popen[str] | None = None
        self._reaper: subprocess.Popen[str] | None = None
        self._log: LogPump | None = None
        self.probe: Probe | None = None
        self.watchdog: Watchdog | None = None

    @classmethod
    def embedded(cls, **options: Any) -> ServerProcess:
        """A server on free ports with the models that come as packages."""
        entries = tuple(entry for entry in ENTRIES if entry.model_id in EMBEDDED)
        return cls(ServerOptions.on_free_ports(entries=entries, **options))

    def __enter__(self) -> ServerProcess:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def http_url(self) -> str:
        """Base URL of the HTTP endpoint."""
        return f"http://{self.options.client_host}:{self.options.http_port}"

    @property
    def grpc_url(self) -> str:
        """host:port of the gRPC endpoint."""
        return f"{self.options.client_host}:{self.options.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus metrics."""
        return f"http://{self.options.client_host}:{self.options.metrics_port}/metrics"

    @property
    def admin_headers(self) -> dict[str, str]:
        """Header that grants access to the restricted HTTP APIs; gRPC's name has a prefix."""
        return {ADMIN_HEADER: self.admin_key}

    @property
    def pid(self) -> int:
        """Process id of the server, which leads a process group of its own."""
        if self._process is None:
            raise NotReady("the server is not started")
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def num_reloads(self) -> int:
        """How often the watchdog reloaded a crashed model."""
        return self.watchdog.num_reloads if self.watchdog else 0

    @property
    def log_path(self) -> Path:
        """The file with the output of the server and the lines of launcher and gateway."""
        return self.options.log_file or self.scratch / "server.log"

    def log_tail(self, count: int = 20) -> str:
        """The last lines of the server's output."""
        return self._log.tail(count) if self._log else ""

    def start(self) -> None:
        """Starts the process; ``wait_ready`` returns when it can be used.

        Raises:
            ConfigError: no server, a missing library, a port in use, nothing to serve, a
                checkpoint that cannot be obtained.
        """
        self._started, self._is_ready = time.monotonic(), False
        self.startup.start()
        check_path(tempfile.gettempdir(), "the folder for temporary files (TMPDIR)")
        self.scratch.mkdir(mode=0o700)
        options = self.options
        installation = find_installation(options.server)
        own = {**installation.environment(self.scratch), CONTROL_KEY: self.admin_key}
        environment = {**os.environ, **options.environment, **own, progress.WANTED: "1"}
        check_libraries(installation, environment)
        ports = ("http_port", "grpc_port", "metrics_port")
        check_free(
            options.host,
            {f"--{name.replace('_', '-')}": getattr(options, name) for name in ports},
        )
        repositories, self.models = prepare(options, self.scratch)
        # Here, where progress is shown, not silently inside the stubs.
        for model in self.models:
            with self.startup.phase("checkpoint", model.name):
                self.checkpoints[model.name] = fetch(model)
        arguments = command_line(
            options, installation, self.id, backends=installation.backends(self.scratch),
            repositories=repositories, models=[model.name for model in self.models],
            admin_key=self.admin_key, shm_prefix=self._shm_prefix,
        )  # fmt: skip
        self._process = launch(arguments, self.scratch, environment)
        self._reaper = start_reaper(self.pid, self._grace_s, self._shm_prefix, self.scratch)
        assert self._process.stdout is not None
        self._log = LogPump(
            self._process.stdout,
            self.log_path,
            self._show,
            options.verbose,
            is_appending=self._num_starts > 0,
            options=options.log,
            read=self.startup.read,
            on_failure=self.startup.failed,
        )
        self._num_starts += 1
        self._log.has_begun.wait(_ARGUMENTS_READ_S)
        hide_argument(self._process.pid, self.admin_key)

    def wait_ready(self) -> None:
        """Returns once every model has answered a request; then starts the watchdog.

        A start that failed because a process was not scheduled for a while is repeated.

        Raises:
            NotReady: a model failed to load, the server ended, or the time is up.
        """
        timeout_s = self.options.startup_timeout_s
        for number in range(1, _MAX_STARTS + 1):
            assert self._process is not None and self._log is not None
            header = (f"triton-grpc-protocol-{ADMIN_HEADER}", self.admin_key)
            probe = self.probe = Probe(self.grpc_url, header)
            until = self._started + timeout_s
            start = Start(self._process, self._log, probe, self.startup, until)
            with EndAbandoned(self.pid) as ended:
                try:
                    start.wait_for_server(self.id, self.http_url)
                    start.wait_for_models(self.models)
                    break
                except NotReady as error:
                    is_accident = bool(ended.names) or self._has_crashed
                    if not is_accident or number == _MAX_STARTS:
                        raise
                    logger.warning("%s; starting again", str(error).splitlines()[0])
            self._start_again()
        self._is_ready = True
        self.startup_s = time.monotonic() - self._started
        self.watchdog = Watchdog(
            probe, self.models, self.pid, self.options.watch_interval_s,
            timeout_s, lambda name: self.on_crash(name),
            lambda names: self.on_lost(names), lambda names: self.on_loaded(names),
        )  # fmt: skip
        self.watchdog.start()

    @property
    def _has_crashed(self) -> bool:
        """Whether the server was ended by a signal that was not sent deliberately."""
        code = self._process.poll() if self._process is not None else None
        return code in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE)

    def wait(self) -> int:
        """Waits for the server to end by itself; returns its exit status."""
        assert self._process is not None, "it is started"
        return self._process.wait()

    def restart(self) -> None:
        """Replaces a server that has ended by another one with the same options and ports.

        Raises:
            ConfigError, NotReady: as ``start`` and ``wait_ready``.
        """
        self.num_restarts += 1
        self._start_again()
        self.wait_ready()
        self.on_loaded([model.name for model in self.models])

    def _start_again(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """Ends the server at once, dropping running requests; ``stop`` must still be called."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stops the server and its stubs; removes its shared memory and scratch folder."""
        if self.watchdog is not None:
            self.watchdog.stop()
        self.startup.stop()
        process = self._process
        if self.probe is not None:
            # A server that is still loading has no requests, and cannot react until it has loaded.
            if self._is_ready and process is not None and self.is_running():
                stubs, grace_s = find_stubs(process.pid), self.options.exit_timeout_s
                drain(self.probe, self.models, stubs, grace_s, self.is_running)
            self.probe.close()
        if process is not None:
            # Without requests, only idle connections or loading models delay it.
            end_with_children(process, _IDLE_GRACE_S)
            if self._log is not None:
                self._log.join(timeout_s=5)
        reaper.remove_shared_memory(self._shm_prefix)
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self._reaper is not None:
            dismiss(self._reaper)
            self._reaper = None

    @property
    def _shm_prefix(self) -> str:
        return f"{self.id.replace('-', '_')}_"

    @property
    def _grace_s(self) -> float:
        """An open stream can keep the server beyond its own timeout; then it is killed."""
        return self.options.exit_timeout_s + 3.0
