"""infinity (infinity-emb) as a contestant: its own server in its own environment.

Its pinned requirements conflict with ours: ``python -m venv infinity && infinity/bin/pip install
'infinity-emb[server,torch]' 'click<8.2'``, and ``benchmarks/peers/embed.py --infinity
infinity/bin/infinity_emb``.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from harness.texts import Embed, Floats, in_batches

from atoll.launcher.ports import free_ports


@contextmanager
def served_by_infinity(program: Path, folder: Path) -> Iterator[Embed]:
    """Its torch engine in float32."""
    (port,) = free_ports(1)
    command = [
        str(program), "v2", "--model-id", str(folder), "--served-model-name", "model",
        "--engine", "torch", "--device", "cpu", "--dtype", "float32", "--port", str(port),
        "--no-bettertransformer", "--no-model-warmup",
        "--no-compile",  # torch.compile takes minutes, again for new lengths
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "DO_NOT_TRACK": "1"},
    )  # fmt: skip
    try:
        _wait(server, url)
        yield _client(url)
    finally:
        server.terminate()
        server.wait(30)


def _client(url: str) -> Embed:
    def one(batch: list[str]) -> Floats:
        body = json.dumps({"input": batch, "model": "model"}).encode()
        request = urllib.request.Request(
            f"{url}/embeddings", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            rows = json.load(answer)["data"]
        vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
        unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    return in_batches(one)


def _wait(server: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.5)
    raise RuntimeError(f"infinity did not start (status {server.poll()})")
