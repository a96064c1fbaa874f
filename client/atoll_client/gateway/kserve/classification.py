"""The classification extension: an output's largest values with their indices, as strings.

Computed here: a server would sort NaNs too, which may crash it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from atoll_client.errors import GenerationError
from atoll_client.gateway.kserve.tensors import pack
from atoll_client.kserve import DTYPES, Message


def take_counts(message: Message) -> dict[str, int]:
    """The requested classes by output, removed from the message: servers send plain values."""
    counts = {}
    for output in message.outputs:
        if "classification" in output.parameters:
            counts[output.name] = output.parameters["classification"].int64_param
        output.ClearField("parameters")
    return counts


def classified(response: Message, counts: Mapping[str, int], is_batched: bool) -> Message:
    """The response with ``value:index`` strings in the outputs of ``counts``.

    Raises:
        GenerationError: such an output contains a NaN.
    """
    if not counts:
        return response
    for index, output in enumerate(response.outputs):
        if output.name not in counts:
            continue
        shape = list(output.shape)
        values = np.frombuffer(response.raw_output_contents[index], DTYPES[output.datatype])
        batch = shape[:1] if is_batched else []
        rows = values.reshape(batch[0] if batch else 1, -1) if values.size else values[None]
        best = [_best(output.name, row, counts[output.name]) for row in rows]
        texts = [text for row in best for text in row]
        output.datatype = "BYTES"
        output.shape[:] = [*batch, len(best[0])]
        response.raw_output_contents[index] = pack(output.name, "BYTES", texts)
    return response


def _best(name: str, row: Any, count: int) -> list[str]:
    if row.dtype.kind == "f" and np.isnan(row).any():
        raise GenerationError(f"output '{name}' holds a value that is not a number")
    # Descending; equal values in their order.
    order = (row.size - 1 - np.argsort(row[::-1], kind="stable"))[::-1][:count]
    form = "{:.6f}:{}" if row.dtype.kind == "f" else "{}:{}"
    return [form.format(row[index], index) for index in order.tolist()]
