"""One tritonserver process: started, waited for, watched over, stopped without remains."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from atoll.catalogue import ENTRIES, ServedModel, read_repository, session, write_repository
from atoll.errors import ConfigError, NotReady
from atoll.launcher import reaper
from atoll.launcher.canary import Probe
from atoll.launcher.command import ADMIN_HEADER, command_line
from atoll.launcher.installation import find_installation
from atoll.launcher.libraries import check_libraries
from atoll.launcher.logs import LogPump
from atoll.launcher.options import ServerOptions
from atoll.launcher.ports import is_free
from atoll.launcher.watchdog import Watchdog
from atoll.weights.embedded import EMBEDDED
from atoll.weights.files import resolve


class ServerProcess:
    """A server for the life of a ``with`` block, or from ``start`` to ``stop``.

    Everything it needs is in a scratch folder of its own, which is also its working directory:
    the stub puts that first on sys.path, so it must never be a folder with Python packages.
    A second process, the reaper, ends the server if this one dies.

    models, checkpoints (folders by model name), startup_s, num_restarts: filled in on the way.

    Args:
        show: gets the lines of the server's output that a user should see.
    """

    def __init__(self, options: ServerOptions, show: Callable[[str], None] | None = None) -> None:
        self.options = options
        self.id = f"atoll-{uuid.uuid4().hex[:12]}"
        self.scratch = Path(tempfile.mkdtemp(prefix="atoll-"))
        self.models: tuple[ServedModel, ...] = ()
        self.checkpoints: dict[str, Path] = {}
        self.startup_s = 0.0
        self.num_restarts = 0
        self._started = 0.0
        self._show = show or (lambda line: None)
        self._admin_key = secrets.token_hex(16)
        self._process: subprocess.Popen[str] | None = None
        self._reaper: subprocess.Popen[str] | None = None
        self._log: LogPump | None = None
        self._probe: Probe | None = None
        self._watchdog: Watchdog | None = None

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        """Header that opens the restricted HTTP APIs; gRPC's has a prefix before the name."""
        return {ADMIN_HEADER: self._admin_key}

    @property
    def pid(self) -> int:
        """Process id of the server, which leads a process group of its own."""
        if self._process is None:
            raise NotReady("the server is not started")
        return self._process.pid

    @property
    def num_reloads(self) -> int:
        """How often the watchdog brought a crashed model back."""
        return self._watchdog.num_reloads if self._watchdog else 0

    @property
    def log_path(self) -> Path:
        """The file with the server's output."""
        return self.options.log_file or self.scratch / "server.log"

    def log_tail(self, count: int = 20) -> str:
        """The last lines of the server's output."""
        return self._log.tail(count) if self._log else ""

    def start(self) -> None:
        """Starts the process; ``wait_ready`` tells when it can be used.

        Raises:
            ConfigError: no server, a missing library, a port in use, nothing to serve, a
                checkpoint that cannot be had.
        """
        self._started = time.monotonic()
        options = self.options
        installation = find_installation(options.server)
        environment = {**os.environ, **options.environment, **installation.environment()}
        environment["PYTHONUNBUFFERED"] = "1"
        check_libraries(installation, environment)
        self._check_ports()
        repositories = self._repositories()
        # Here, where progress is seen, not silently inside the stubs.
        self.checkpoints = {m.name: _fetch(m) for m in self.models if m.model_id}
        arguments = command_line(
            options,
            installation,
            self.id,
            backends=installation.backends(self.scratch),
            repositories=repositories,
            models=[model.name for model in self.models],
            admin_key=self._admin_key,
            shm_prefix=self._shm_prefix,
        )
        self._process = subprocess.Popen(
            arguments,
            cwd=self.scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reaper = self._start_reaper()
        assert self._process.stdout is not None
        self._log = LogPump(
            self._process.stdout,
            self.log_path,
            self._show,
            options.verbose,
            is_appending=self.num_restarts > 0,
        )

    def wait_ready(self) -> None:
        """Returns once every model has answered a request; then the watchdog begins.

        Raises:
            NotReady: a model failed to load, the server ended, or the time is up.
        """
        deadline = self._started + self.options.startup_timeout_s
        header = (f"triton-grpc-protocol-{ADMIN_HEADER}", self._admin_key)
        self._probe = Probe(self.grpc_url, header)
        while self._probe.server_name() != self.id:
            self._fail_if_broken()
            if time.monotonic() > deadline:
                raise NotReady(
                    f"the server was not up after {self.options.startup_timeout_s:.0f} s"
                    f"\n{self.log_tail()}"
                )
            time.sleep(0.05)
        while not self._is_http_up():
            self._fail_if_broken()
            if time.monotonic() > deadline:
                raise NotReady(f"{self.http_url} does not answer\n{self.log_tail()}")
            time.sleep(0.01)
        for model in self.models:
            self._probe.check(model, timeout_s=max(1.0, deadline - time.monotonic()))
        self.startup_s = time.monotonic() - self._started
        self._watchdog = Watchdog(
            self._probe, self.models, self.options.watch_interval_s, self.options.startup_timeout_s
        )
        self._watchdog.start()

    def wait(self) -> int:
        """Waits for the server to end by itself; its exit status."""
        if self._process is None:
            raise NotReady("the server is not started")
        return self._process.wait()

    def restart(self) -> None:
        """In place of a server that has ended: another one with the same options and ports.

        Raises:
            ConfigError, NotReady: as ``start`` and ``wait_ready``.
        """
        self.stop()
        self.num_restarts += 1
        self.scratch.mkdir()
        self.start()
        self.wait_ready()

    def kill(self) -> None:
        """Ends the server at once, dropping requests in flight; ``stop`` still has to be called."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stops the server and its stubs; removes its shared memory and scratch folder."""
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._probe is not None:
            self._probe.close()
        if self._process is not None:
            self._end(self._process)
        reaper.remove_shared_memory(self._shm_prefix)
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self._reaper is not None and self._reaper.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._reaper.stdin.write("done\n")
                self._reaper.stdin.close()
            self._reaper.wait(timeout=10)
            self._reaper = None

    @property
    def _shm_prefix(self) -> str:
        return f"{self.id.replace('-', '_')}_"

    @property
    def _grace_s(self) -> float:
        """An open stream can hold the server past its own timeout; then it is killed."""
        return self.options.exit_timeout_s + 3.0

    def _end(self, process: subprocess.Popen[str]) -> None:
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        # A server that has ended by itself may have left stubs in its group.
        reaper.end_group(process.pid, self._grace_s)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=5)
        process.wait(timeout=10)
        if self._log is not None:
            self._log.join(timeout_s=5)

    def _repositories(self) -> list[Path]:
        found = []
        if self.options.entries:
            sessions = [session(e.name) for e in self.options.entries if e.task == "generate"]
            write_repository([*self.options.entries, *sessions], self.scratch / "models")
            found.append(self.scratch / "models")
        if self.options.repository is not None:
            found.append(self.options.repository.resolve())
        there = {model.name: model for folder in found for model in read_repository(folder)}
        missing = [name for name in self.options.names if name not in there]
        if missing or not there:
            raise ConfigError(
                f"there is no model {', '.join(missing)} to serve"
                if missing
                else "there is no model to serve"
            )
        self.models = tuple(there[name] for name in self.options.names or there)
        return found

    def _check_ports(self) -> None:
        host = self.options.host
        for name in ("http_port", "grpc_port", "metrics_port"):
            port = getattr(self.options, name)
            if not is_free(host, port):
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"port {port} on {host} is in use; choose another with {flag}")

    def _start_reaper(self) -> subprocess.Popen[str]:
        """Isolated and without site-packages, so that it starts in a moment."""
        arguments = [str(self.pid), str(self._grace_s), self._shm_prefix, str(self.scratch)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd="/",
            start_new_session=True,
        )

    def _fail_if_broken(self) -> None:
        assert self._process is not None and self._log is not None
        ended = self._process.poll() is not None
        if ended:
            self._log.join(timeout_s=5)
        reasons = [f"model {k!r} failed to load: {v}" for k, v in self._log.failures.items()]
        if reasons:
            raise NotReady("\n".join(reasons))
        if ended:
            raise NotReady(
                f"the server ended with status {self._process.returncode}\n{self.log_tail()}"
            )

    def _is_http_up(self) -> bool:
        """Triton opens HTTP a moment after gRPC.

        Raises:
            NotReady: another server answers on the port.
        """
        try:
            with urllib.request.urlopen(f"{self.http_url}/v2", timeout=10) as response:
                found = response.read()
        except OSError:
            return False
        if self.id.encode() not in found:
            raise NotReady(f"{self.http_url} belongs to another server")
        return True


def _fetch(model: ServedModel) -> Path:
    """The checkpoint folder of a model, downloaded or converted if need be."""
    cache = model.parameters.get("huggingface_hub_cache")
    return resolve(model.model_id or "", model.parameters.get("revision"), cache)
