"""Real servers for tests, on free ports; each test session checks that none left anything."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from admin_server import Administered, administered
from serving import ONE_THREAD
from small_models import STREAM, StartServer

from atoll.catalogue import Entry, render
from atoll.launcher import ServerOptions, ServerProcess

# Short, since tests close their connections; no watchdog, whose requests would be counted.
DEFAULTS: dict[str, Any] = {
    "exit_timeout_s": 3, "watch_interval_s": 0.0, "environment": ONE_THREAD,
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts servers; tests that need the same one come together."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.server)
    places = [at for at, item in enumerate(items) if item.get_closest_marker("in_server")]
    for at, item in zip(places, sorted((items[at] for at in places), key=_server), strict=True):
        items[at] = item


def _server(item: pytest.Item) -> int:
    marker = item.get_closest_marker("in_server")
    assert marker is not None
    return int(marker.args[0])


def _show(line: str) -> None:
    """Into the captured output, which pytest prints where a test fails."""
    print(f"[triton] {line}", file=sys.stderr)


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[ServerProcess]:
    """One server with the two embedded models, shared by all tests that only ask it things."""
    server = ServerProcess.embedded(**DEFAULTS)
    with server:
        yield server
    assert_gone(server)


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts a server with the given ``ServerOptions``; all are stopped after the test."""
    with ExitStack() as stack:
        started: list[ServerProcess] = []

        def start(**options: Any) -> ServerProcess:
            chosen = ServerOptions.on_free_ports(**{**DEFAULTS, **options})
            server = stack.enter_context(ServerProcess(chosen, show=_show))
            started.append(server)
            return server

        yield start
    for server in started:
        assert_gone(server)


@pytest.fixture(scope="session")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administered]:
    """A server whose models come and go; a test leaves ``count`` loaded."""
    folder, runtime = tmp_path_factory.mktemp("admin"), tmp_path_factory.mktemp("run")
    allowed = tmp_path_factory.getbasetemp()
    with administered(folder, runtime, f"--lora-folder={allowed}") as found:
        yield found


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    from tiny.checkpoint import write
    from tiny.encoders import classifiers, write_text_files

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-classify"
    write(classifiers(3)[0], folder)
    write_text_files(folder)
    return folder


def assert_gone(server: ServerProcess) -> None:
    """No process, shared memory or file of the server is left."""
    mine = [p.pid for p in psutil.process_iter() if _belongs(p, server.id, server.scratch)]
    assert not mine, f"processes left: {mine}"
    assert not server.scratch.exists()
    assert not [*Path("/dev/shm").glob(f"{server.id.replace('-', '_')}*")]


def _belongs(process: psutil.Process, server_id: str, scratch: Path) -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    is_alive = bool(words) and process.status() != psutil.STATUS_ZOMBIE
    return is_alive and (server_id in words or f"{scratch}/" in words)


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Path]:
    """A repository whose entries have our tensors and the code given by name."""

    def write(**models: str) -> Path:
        for name, code in models.items():
            task = "generate" if code == STREAM else "embed"
            entry = Entry(name, "x", task, "bert", dims={"embedding": 4})
            folder = tmp_path / "models" / name
            (folder / "1").mkdir(parents=True)
            config = render(entry)["config.pbtxt"]
            # No model_id: there is no checkpoint to fetch.
            (folder / "config.pbtxt").write_text(config[: config.index("\nparameters {")])
            (folder / "1" / "model.py").write_text(code)
        return tmp_path / "models"

    return write
