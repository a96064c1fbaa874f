"""One real server with the two embedded models, and the gateway in front of it, for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateways import Served, start_gateway

from atoll.launcher import ServerProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs servers."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.server)


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The server and its gateway."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with ServerProcess.embedded(exit_timeout_s=3, watch_interval_s=0.0) as server:
        gateway = start_gateway(server.grpc_url, server.metrics_url)
        try:
            gateway.wait_ready()
            yield Served(server, gateway)
        finally:
            gateway.stop()


@pytest.fixture(scope="session")
def http(served: Served) -> Iterator[httpx.Client]:
    """Plain HTTP to the gateway."""
    with httpx.Client(base_url=served.url, timeout=60.0) as client:
        yield client
