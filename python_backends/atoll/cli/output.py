"""What ``atoll serve`` prints: for people, or as lines of JSON where ``log_format`` says so."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.status import Status

from atoll.catalogue import Detected, ServedModel, read_model
from atoll.cli.examples import example
from atoll.cli.tables import print_table
from atoll.config import Settings
from atoll.launcher import ServerProcess
from atoll.launcher.admin.server import AdminServer
from atoll.launcher.gateway import GatewayProcess
from atoll.logs import LogOptions, copy_to

# Its level is its own: these lines are the command's output.
logger = logging.getLogger("atoll.serve")


class Output(Protocol):
    """Any thread may call."""

    def copy_to(self, write: Callable[[str], None]) -> None:
        """Has the launcher's log lines and notes written there, too."""

    def note(self, text: str) -> None:
        """A sentence about what happens."""

    def triton(self, line: str) -> None:
        """A line of the server's output."""

    def phase(self, text: str, facts: Mapping[str, Any]) -> None:
        """A phase of a start begins or, if its facts have ``seconds``, takes long."""

    def starting(self) -> AbstractContextManager[None]:
        """``with``: a start, whose phases are shown."""

    def ready(
        self, process: ServerProcess, gateway: GatewayProcess | None, admin: AdminServer
    ) -> None:
        """What is served, and where."""

    def stopped(self) -> None:
        """The end."""


def output_of(options: LogOptions) -> Output:
    """By ``log_format``."""
    return JsonOutput() if options.log_format == "json" else TextOutput()


class TextOutput:
    """A status line on a terminal, else plain lines."""

    def __init__(self) -> None:
        self._log = Console(stderr=True, soft_wrap=True)
        self._status: Status | None = None
        self._is_starting = False
        self._copy: Callable[[str], None] = lambda line: None

    def copy_to(self, write: Callable[[str], None]) -> None:
        """See ``Output``."""
        self._copy = write
        copy_to(write)

    def note(self, text: str) -> None:
        """See ``Output``."""
        self._copy(f"WARNING {logger.name}: {text}")
        self._log.print(text, markup=False, highlight=False, style="yellow")

    def triton(self, line: str) -> None:
        """See ``Output``."""
        self._log.print(f"[triton] {line}", markup=False, highlight=False, style="dim")

    def phase(self, text: str, facts: Mapping[str, Any]) -> None:
        """See ``Output``."""
        if "seconds" in facts:
            self.note(text)
        elif self._status is not None:
            self._status.update(f"starting: {text}")
        elif self._is_starting:
            self._log.print(f"starting: {text}", markup=False, highlight=False, style="dim")

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """See ``Output``."""
        self._is_starting = True
        try:
            if not self._log.is_terminal:
                yield
                return
            with self._log.status("starting") as self._status:
                yield
        finally:
            self._status, self._is_starting = None, False

    def ready(
        self, process: ServerProcess, gateway: GatewayProcess | None, admin: AdminServer
    ) -> None:
        """A table, the addresses and an example request."""
        out, rows, notes = Console(), [], []
        for model in process.models:
            folders = process.checkpoints.get(model.name, {})
            for version in model.versions:
                name = f"{model.name}, version {version}" if len(model.versions) > 1 else model.name
                found = _detected(model, folders[version]) if version in folders else None
                what = (found.architecture, found.runs_on) if found else ("", "")
                pooling = f" ({found.pooling})" if found and found.pooling else ""
                rows.append((name, f"{model.kind}{pooling}", *what, model.checkpoint(version)))
                notes += [f"{name}: {note}" for note in (found.notes if found else ())]
        print_table(
            ("model", "task", "architecture", "runs on", "checkpoint"), rows,
            title=f"Atoll, ready after {process.startup_s:.1f} s",
        )  # fmt: skip
        for note in notes:
            out.print(note, markup=False, highlight=False, style="yellow", soft_wrap=True)
        lines = [
            *_times(process),
            *(_gateway_lines(gateway) if gateway is not None else []),
            f"Triton   {process.http_url}, gRPC {process.grpc_url}, metrics {process.metrics_url}",
            f"admin    {admin.path}: atoll ps, load, unload, reload, logs",
            *(f"\n{example(model, process.http_url)}" for model in process.models),
            "\nCtrl-C stops everything.",
        ]
        # Not through the console, which would wrap and colour text that users copy.
        print("\n".join(lines), flush=True)

    def stopped(self) -> None:
        """See ``Output``."""
        self._log.print("stopped", style="dim")


class JsonOutput:
    """Every line is an object; nothing goes to standard output."""

    def __init__(self) -> None:
        logger.setLevel(logging.INFO)

    def copy_to(self, write: Callable[[str], None]) -> None:
        """See ``Output``."""
        copy_to(write)

    def note(self, text: str) -> None:
        """See ``Output``."""
        logger.warning("%s", text)

    def triton(self, line: str) -> None:
        """See ``Output``: it is an object already."""
        print(line, file=sys.stderr, flush=True)

    def phase(self, text: str, facts: Mapping[str, Any]) -> None:
        """See ``Output``."""
        level = logging.WARNING if "seconds" in facts else logging.INFO
        logger.log(level, "starting: %s", text, extra={"facts": {"event": "phase", **facts}})

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """See ``Output``."""
        yield

    def ready(
        self, process: ServerProcess, gateway: GatewayProcess | None, admin: AdminServer
    ) -> None:
        """One object with models, addresses, and the seconds of each phase."""
        facts = {
            "event": "ready",
            "seconds": round(process.startup_s, 3),
            "gateway": gateway.options.url if gateway is not None else "",
            "triton": process.http_url,
            "grpc": process.grpc_url,
            "metrics": process.metrics_url,
            "admin": str(admin.path),
            "models": [
                {"model": m.name, "kind": m.kind, "versions": m.versions} for m in process.models
            ],
            "phases": [
                {**phase.facts(), "seconds": round(seconds, 3)}
                for phase, seconds in process.startup.seconds().items()
            ],
        }
        logger.info("ready", extra={"facts": facts})

    def stopped(self) -> None:
        """See ``Output``."""
        logger.info("stopped", extra={"facts": {"event": "stopped"}})


def _times(process: ServerProcess) -> list[str]:
    """How long each phase of the start took: the launcher's own, then those of each model."""
    found: dict[str, list[str]] = {}
    for phase, seconds in process.startup.seconds().items():
        subject, _, name = str(phase).rpartition(": ")
        if seconds >= 0.05:
            found.setdefault(subject or "start-up", []).append(f"{name} {seconds:.1f} s")
    return [f"{subject}: {', '.join(times)}" for subject, times in found.items()]


def _gateway_lines(gateway: GatewayProcess) -> list[str]:
    options = gateway.options
    grpc_port = options.settings["grpc_port"]
    grpc = f", gRPC {options.client_host}:{grpc_port}" if grpc_port != "0" else ""
    return [f"gateway  {options.url}{grpc}"]


def _detected(model: ServedModel, folder: Path) -> Detected:
    """How the server classified the checkpoint, which it has loaded for its entry's task."""
    settings = Settings.read(model.parameters)
    return read_model(
        folder, model.task, settings.dense_path, settings.pooling,
        reranker_template=settings.reranker_template,
    )  # fmt: skip
