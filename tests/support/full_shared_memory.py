"""A program: a server in a mount namespace whose /dev/shm is small: full, free and full by turns.

Prints a JSON object of how its clients' requests ended; see test_full_shared_memory.py.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import tritonclient.grpc as triton
from fault_repository import EMBEDDER, GENERATOR, RERANKER, SEARCH, SESSION, write_faulty
from serving import ONE_THREAD

from atoll.launcher import ServerOptions, ServerProcess

PATIENCE_S = 30.0
SHM = Path("/dev/shm")
FILLER = SHM / "filler"
NUM_TALKS = 6


def fill() -> None:
    """To the last byte."""
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={FILLER}", "bs=64k"], capture_output=True, check=False
    )


@contextmanager
def filling(interval_s: float) -> Iterator[None]:
    """Full and free by turns.

    Fills under the lock of the models: an encoder has one response, which Triton 2.51 loses if
    others take the memory between the look at it and the send.
    """
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(interval_s):
            folder = os.open(FILLER.parent, os.O_RDONLY)
            fcntl.flock(folder, fcntl.LOCK_EX)
            fill()
            os.close(folder)
            is_over.wait(interval_s)
            FILLER.unlink()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    is_over.set()
    thread.join()


def _tensor(name: str, values: list[str] | bool, batched: bool = False) -> Any:
    if isinstance(values, bool):
        found = triton.InferInput(name, [1], "BOOL")
        found.set_data_from_numpy(np.array([values]))
        return found
    shape = [len(values), 1] if batched else [len(values)]
    found = triton.InferInput(name, shape, "BYTES")
    found.set_data_from_numpy(np.array([v.encode() for v in values], object).reshape(shape))
    return found


class Run:
    """The server and its clients."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.never_answered: list[str] = []
        self.errors = set[str]()

    def stream(self, size: int, streamed: bool, model: str = GENERATOR, **sequence: Any) -> str:
        """A generator's answer; ``size``: characters of a prompt that comes back."""
        answers: queue.Queue[Any] = queue.Queue()
        client = triton.InferenceServerClient(self.server.grpc_url)
        client.start_stream(lambda result, error: answers.put((result, error)))
        options = {"max_tokens": 40, "ignore_eos": True, "top_logprobs": 20 if size > 100 else 0}
        inputs = [
            _tensor("text_input", ["p" * size]), _tensor("stream", streamed),
            _tensor("sampling_parameters", [json.dumps(options)]),
        ]  # fmt: skip
        if size > 100:
            inputs.append(_tensor("return_prompt_logprobs", True))
        client.async_stream_infer(model, inputs, enable_empty_final_response=True, **sequence)
        try:
            while True:
                result, error = answers.get(timeout=PATIENCE_S)
                if error is not None:
                    self.errors.add(str(error)[:120])
                    return "error"
                if result.get_response().parameters["triton_final_response"].bool_param:
                    return "answered"
        except queue.Empty:
            return "never"
        finally:
            client.stop_stream()
            client.close()

    def turn(self, number: int, size: int, is_first: bool) -> str:
        """A turn of conversation ``number``."""
        return self.stream(
            size, number % 2 == 0, SESSION, sequence_id=number, sequence_start=is_first
        )

    def embed(self, rows: int) -> str:
        """An embedder's answer over gRPC; with many rows, a vector of each token."""
        with triton.InferenceServerClient(self.server.grpc_url) as client:
            given = {"return_token_embeddings": True} if rows > 1 else {}
            texts = [_tensor("text_input", ["a" * 60] * rows, batched=True)]
            try:
                client.infer(EMBEDDER, texts, parameters=given, client_timeout=PATIENCE_S)
            except triton.InferenceServerException as error:
                return "never" if "DEADLINE" in str(error.status()) else "error"
        return "answered"

    def http(self, path: str, body: Any) -> str:
        """Over HTTP."""
        data = json.dumps(body).encode()
        try:
            url = f"{self.server.http_url}/v2/models/{path}"
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=PATIENCE_S) as r:
                r.read()
        except urllib.error.HTTPError:
            return "error"
        except TimeoutError:
            return "never"
        return "answered"

    def search(self) -> str:
        """A pipeline's answer, for which it asks two encoders."""
        query = {"name": "query", "datatype": "BYTES", "shape": [1], "data": ["a"]}
        texts = {"name": "text_input", "datatype": "BYTES", "shape": [2, 1], "data": ["b", "c"]}
        return self.http(f"{SEARCH}/infer", {"inputs": [query, texts]})

    def infer(self, rows: int) -> str:
        """An embedder's answer over HTTP."""
        texts = {"name": "text_input", "datatype": "BYTES", "shape": [rows, 1]}
        body = {"inputs": [{**texts, "data": ["a" * 60] * rows}]}
        parameters = {"parameters": {"return_token_embeddings": True}} if rows > 1 else {}
        return self.http(f"{EMBEDDER}/infer", {**body, **parameters})

    def generate(self, size: int) -> str:
        """A generator's answer over HTTP."""
        body = {"text_input": "p" * size, "max_tokens": 4, "ignore_eos": True}
        more = {"return_prompt_logprobs": True, "top_logprobs": 20} if size > 100 else {}
        return self.http(f"{GENERATOR}/generate", {**body, **more})

    def all_at_once(self, is_large: bool, count: int) -> dict[str, list[str]]:
        """``count`` requests of all kinds, each on a thread; how they ended, by kind."""
        size, rows = (700, 256) if is_large else (20, 1)
        kinds: dict[str, Callable[[int], str]] = {
            "stream": lambda number: self.stream(size, True),
            "whole": lambda number: self.stream(size, False),
            "first turn": lambda number: self.turn(1000 + number, size, True),
            "later turn": lambda number: self.turn(1 + number % NUM_TALKS, size, False),
            "embed": lambda number: self.embed(rows),
            "infer": lambda number: self.infer(rows),
            "generate": lambda number: self.generate(size),
        }
        if not is_large:
            kinds["search"] = lambda number: self.search()
        ends: dict[str, list[str]] = {kind: [] for kind in kinds}

        def one(kind: str, number: int) -> None:
            end = kinds[kind](number)
            ends[kind].append(end)
            if end == "never":
                self.never_answered.append(f"{kind}, large: {is_large}")

        named = zip(range(count), itertools.cycle(kinds))
        threads = [threading.Thread(target=one, args=(kind, n)) for n, kind in named]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ends


def listening(patience_s: float = 20.0) -> int:
    """Sockets on which conversations await answers; ended conversations are being forgotten yet."""
    deadline = time.monotonic() + patience_s
    while True:
        count = Path("/proc/net/unix").read_text().count("@atoll-answers-")
        if not count or time.monotonic() > deadline:
            return count
        time.sleep(0.2)


def main() -> None:
    """Mounts, serves, fills, asks, frees, asks again."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(SHM)], check=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = write_faulty(Path(folder))
        options = ServerOptions.on_free_ports(
            repository=repository,
            names=(GENERATOR, EMBEDDER, RERANKER, SESSION, SEARCH),
            exit_timeout_s=3,
            watch_interval_s=0.0,
            environment=ONE_THREAD,
        )
        with ServerProcess(options, lambda line: print(line, file=sys.stderr)) as server:
            run = Run(server)
            found["begun"] = [run.turn(number, 20, True) for number in range(1, 1 + NUM_TALKS)]
            fill()
            found["small"] = run.all_at_once(False, 16)
            found["large"] = run.all_at_once(True, 30)
            found["errors"] = sorted(run.errors)
            found["is_ready"] = run.http(f"{GENERATOR}/generate", {"text_input": "a"}) == "answered"
            FILLER.unlink()
            with filling(0.1):
                found["meanwhile"] = [run.all_at_once(is_large, 30) for is_large in (True, False)]
            found["afterwards"] = [run.all_at_once(is_large, 8) for is_large in (False, True)]
            found["never_answered"] = run.never_answered
            found["is_alive"] = server.num_restarts == 0
            found["listening"] = listening()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
