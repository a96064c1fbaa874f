"""An encoder in two processes (``instance_group``): Triton spreads the requests over both."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from gateways import EMBEDDER
from small_models import StartServer, wait_until

from atoll.catalogue import ENTRIES, write_repository
from atoll.launcher.stubs import find_stubs
from atoll_client import Client


@pytest.mark.slow
def test_two_instances_share_the_requests(tmp_path: Path, start_server: StartServer) -> None:
    write_repository([entry for entry in ENTRIES if entry.name == EMBEDDER], tmp_path)
    config = tmp_path / EMBEDDER / "config.pbtxt"
    one = config.read_text()
    config.write_text(one.replace("count: 1", "count: 2"))
    assert config.read_text() != one
    server = start_server(repository=tmp_path, environment={"ATOLL_NUM_THREADS": "1"})
    stubs = [psutil.Process(stub.pid) for stub in find_stubs(server.pid)]
    assert len(stubs) == 2
    before = [sum(stub.cpu_times()[:2]) for stub in stubs]
    texts = [f"text {number} " * 40 for number in range(64)]
    with Client(server.grpc_url) as client, ThreadPoolExecutor(8) as pool:
        expected = client.embed(texts[:4], EMBEDDER)

        def used() -> list[float]:
            return [sum(s.cpu_times()[:2]) - b for s, b in zip(stubs, before, strict=True)]

        def do_both_work() -> bool:
            found = list(pool.map(lambda text: client.embed([text], EMBEDDER)[0], texts))
            np.testing.assert_allclose(found[:4], expected, atol=1e-5)
            return min(used()) > max(used()) / 5

        # A busy machine may let one of them run first.
        assert wait_until(do_both_work, timeout_s=60), used()
