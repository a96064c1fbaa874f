"""A real server of tiny encoders, asked over either protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from serving import ONE_THREAD
from tokenizers import Tokenizer

from atoll.launcher import ServerOptions, ServerProcess


@dataclass(frozen=True)
class Fleet:
    """references: transformers' models, by entry."""

    server: ServerProcess
    references: dict[str, Any]
    tokenizer: Tokenizer

    def ids(self, text: str | tuple[str, str]) -> list[int]:
        """Token ids of a text or a pair."""
        found: list[int] = self.tokenizer.encode(*([text] if isinstance(text, str) else text)).ids
        return found


@contextmanager
def started(repository: Path) -> Iterator[ServerProcess]:
    """A running server of these entries."""
    options = ServerOptions.on_free_ports(
        repository=repository,
        exit_timeout_s=3,
        watch_interval_s=0.0,
        environment=ONE_THREAD,
    )
    with ServerProcess(options) as server:
        yield server


def asker(server: ServerProcess, protocol: str) -> Callable[..., dict[str, Any]]:
    """protocol: grpc or http. Returns (model, inputs, **parameters) -> outputs by name."""
    is_grpc = protocol == "grpc"
    module: Any = grpc if is_grpc else http
    url = server.grpc_url if is_grpc else server.http_url.removeprefix("http://")
    client = module.InferenceServerClient(url)

    def infer(model: str, inputs: dict[str, Any], **parameters: Any) -> dict[str, Any]:
        sent = []
        for name, value in inputs.items():
            data = value
            if isinstance(value, list):
                data = np.array([t.encode() for t in value], dtype=object).reshape(-1, 1)
            kind = "BYTES" if data.dtype == object else "INT32"
            tensor = module.InferInput(name, list(data.shape), kind)
            tensor.set_data_from_numpy(data)
            sent.append(tensor)
        answer = client.infer(model, sent, parameters=parameters or None)
        response = answer.get_response()
        if is_grpc:
            names = [output.name for output in response.outputs]
        else:
            names = [output["name"] for output in response["outputs"]]
        return {name: answer.as_numpy(name) for name in names}

    return infer
