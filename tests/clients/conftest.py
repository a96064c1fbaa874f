"""Two real servers for all tests here, each with a gateway in front of it.

``served``: the two embedded models. ``scoring``: tiny checkpoints that rerank, classify and give
sparse vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateways import Served, free_port, start_gateway

from atoll.launcher import ServerProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs servers."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.server)


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The embedder and the generator that come as packages."""
    # Not in this process, whose Hugging Face clients would then refuse to call anything.
    environment = {"HF_HUB_OFFLINE": "1"}
    options = {"exit_timeout_s": 3, "watch_interval_s": 0.0, "environment": environment}
    with ServerProcess.embedded(**options) as server:
        yield from _with_gateway(server)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints by task."""
    from tiny.checkpoint import write
    from tiny.encoders import MASKED, classifiers, write_text_files

    variants = {"rerank": classifiers(1)[0], "classify": classifiers(3)[0], "sparse": MASKED}
    found = {}
    for task, variant in variants.items():
        found[task] = tmp_path_factory.mktemp(task) / f"tiny-{task}"
        write(variant, found[task])
        write_text_files(found[task])
    return found


@pytest.fixture(scope="session")
def scoring(folders: dict[str, Path]) -> Iterator[Served]:
    """A reranker, a classifier and a sparse embedder."""
    from atoll.cli.choose import entry_of
    from atoll.launcher.options import ServerOptions

    entries = tuple(entry_of(str(folder), {"task": task}) for task, folder in folders.items())
    options = ServerOptions.on_free_ports(entries=entries, exit_timeout_s=3, watch_interval_s=0.0)
    with ServerProcess(options) as server:
        yield from _with_gateway(server)


@pytest.fixture(scope="session")
def http(served: Served) -> Iterator[httpx.Client]:
    """Plain HTTP to the gateway of the embedded models."""
    with httpx.Client(base_url=served.url, timeout=60.0) as client:
        yield client


def _with_gateway(server: ServerProcess) -> Iterator[Served]:
    gateway = start_gateway(server.grpc_url, server.metrics_url, grpc_port=str(free_port()))
    try:
        gateway.wait_ready()
        yield Served(server, gateway)
    finally:
        gateway.stop()
