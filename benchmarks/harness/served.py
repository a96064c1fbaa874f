"""Checkpoints behind a real server, and an embedder of that server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from harness.texts import Embed, Floats, in_batches

from atoll.catalogue import entry_for, read_model
from atoll.launcher import ServerOptions, ServerProcess

# Names of dtypes in the results -> their setting.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8", "int4": "int4"}


def server_of(models: Mapping[str, tuple[Path, Mapping[str, str]]]) -> ServerProcess:
    """A server, which ``with`` starts.

    models: the checkpoint and the settings of each entry, by its name.
    """
    entries = tuple(
        entry_for(str(folder), read_model(folder), name=name, settings=settings)
        for name, (folder, settings) in models.items()
    )
    return ServerProcess(ServerOptions.on_free_ports(entries=entries, watch_interval_s=0))


def through_server(url: str, model: str) -> Embed:
    """Embeds by requests over gRPC."""
    client = triton.InferenceServerClient(url)

    def embed(documents: list[str]) -> Floats:
        data = np.array(documents, dtype=object).reshape(-1, 1)
        tensor = triton.InferInput("text_input", list(data.shape), "BYTES")
        tensor.set_data_from_numpy(data)
        vectors: Floats = client.infer(model, [tensor]).as_numpy("embedding")
        return vectors

    return in_batches(embed)
