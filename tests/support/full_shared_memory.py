"""A program: a server in a mount namespace whose /dev/shm is small, then full, then free again.

Prints a JSON object of how its clients' requests ended; see tests/server/test_faults.py.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import tritonclient.grpc as triton
from fault_repository import EMBEDDER, GENERATOR, write_faulty

from atoll.launcher import ServerOptions, ServerProcess

PATIENCE_S = 30.0
SHM = Path("/dev/shm")


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

    def stream(self, model: str, size: int, streamed: bool) -> str:
        """A generator's answer; ``size``: characters of a prompt that comes back."""
        answers: queue.Queue[Any] = queue.Queue()
        client = triton.InferenceServerClient(self.server.grpc_url)
        client.start_stream(lambda result, error: answers.put((result, error)))
        options = {"max_tokens": 4, "ignore_eos": True, "top_logprobs": 20 if size > 100 else 0}
        inputs = [
            _tensor("text_input", ["p" * size]), _tensor("stream", streamed),
            _tensor("sampling_parameters", [json.dumps(options)]),
        ]  # fmt: skip
        if size > 100:
            inputs.append(_tensor("return_prompt_logprobs", True))
        client.async_stream_infer(model, inputs, enable_empty_final_response=True)
        try:
            while True:
                result, error = answers.get(timeout=PATIENCE_S)
                if error is not None:
                    return "error"
                if result.get_response().parameters["triton_final_response"].bool_param:
                    return "answered"
        except queue.Empty:
            return "never"
        finally:
            client.stop_stream()
            client.close()

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

    def all_at_once(self, is_large: bool, count: int) -> list[str]:
        """``count`` requests of all kinds, each on a thread; how they ended."""
        size, rows = (1500, 256) if is_large else (20, 1)
        kinds: list[Callable[[], str]] = [
            lambda: self.stream(GENERATOR, size, True),
            lambda: self.stream(GENERATOR, size, False),
            lambda: self.embed(rows),
            lambda: self.infer(rows),
            lambda: self.generate(size),
        ]
        ends = [""] * count

        def one(number: int) -> None:
            kind = number % len(kinds)
            ends[number] = kinds[kind]()
            if ends[number] == "never":
                self.never_answered.append(f"kind {kind}, large: {is_large}")

        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ends


def main() -> None:
    """Mounts, serves, fills, asks, frees, asks again."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(SHM)], check=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = write_faulty(Path(folder))
        options = ServerOptions.on_free_ports(
            repository=repository,
            names=(GENERATOR, EMBEDDER),
            exit_timeout_s=3,
            watch_interval_s=0.0,
        )
        with ServerProcess(options, lambda line: print(line, file=sys.stderr)) as server:
            run = Run(server)
            filler = SHM / "filler"
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={filler}", "bs=64k"], capture_output=True, check=False
            )
            found["small"] = run.all_at_once(False, 10)
            found["large"] = run.all_at_once(True, 15)
            found["is_ready"] = run.http(f"{GENERATOR}/generate", {"text_input": "a"}) == "answered"
            filler.unlink()
            time.sleep(0.5)
            found["afterwards"] = run.all_at_once(False, 10) + run.all_at_once(True, 5)
            found["never_answered"] = run.never_answered
            found["is_alive"] = server.num_restarts == 0
    print(json.dumps(found))


if __name__ == "__main__":
    main()
