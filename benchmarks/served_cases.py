"""``atoll serve`` of any version of the product, queried through the gateway by plain HTTP."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx

TOKENS = 64
_STARTUP_S = 300
_WORDS = ("river", "stone", "market", "engine", "winter", "letter", "garden", "signal")


class Served:
    """The two embedded models of the tree at ``folder``, on their own ports."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._chance = folder, random.Random(1)
        self._scratch = tempfile.TemporaryDirectory()

    def __enter__(self) -> Served:
        """Returns once both models answer.

        Raises:
            RuntimeError: the server ended or was not ready in time; has the end of its log.
        """
        with ExitStack() as stack:
            sockets = [
                stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)
            ]
            ports = [one.getsockname()[1] for one in sockets]
        names = ("--port", "--http-port", "--grpc-port", "--metrics-port", "--gateway-grpc-port")
        flags = [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
        if "--gateway-grpc-port" not in (self._folder / "docs" / "serve.md").read_text():
            flags.pop()
        places = [str(self._folder / f) for f in ("kernels", "python_backends", "client")]
        self._log = Path(self._scratch.name) / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from atoll.cli import main; main()", "serve", *flags],
                cwd=self._scratch.name, stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            )  # fmt: skip
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}", timeout=120)
        self._wait()
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + _STARTUP_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self._http.get("/v1/health/ready").status_code == 200:
                    self.embed(1), self.chat(1)
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        self.__exit__()
        raise RuntimeError(f"{self._folder}: not ready: {self._log.read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def embed(self, count: int) -> float:
        """Short texts per second, one per request, from ``count`` clients at once."""
        return self._rate(count, self._embed_one, 40)

    def chat(self, count: int) -> float:
        """Tokens per second of streamed chats, ``count`` at once."""
        return self._rate(count, self._chat_one, 1)

    def _rate(self, count: int, work: Callable[[], int], each: int) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            done = sum(pool.map(lambda _: sum(work() for _ in range(each)), range(count)))
        return done / (time.perf_counter() - start)

    def _text(self) -> str:
        return " ".join(self._chance.choice(_WORDS) for _ in range(12))

    def _embed_one(self) -> int:
        self._http.post("/embed", json={"inputs": self._text()}).raise_for_status()
        return 1

    def _chat_one(self) -> int:
        body = {
            "model": "smollm2-135m-instruct", "stream": True, "max_tokens": TOKENS,
            "ignore_eos": True, "messages": [{"role": "user", "content": self._text()}],
        }  # fmt: skip
        with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            assert sum(line.startswith("data: ") for line in answer.iter_lines()) > 1
        return TOKENS
