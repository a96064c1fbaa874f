"""Requests of one model to another of the same server (Triton's business logic scripting)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from atoll.errors import GenerationError, Overloaded
from atoll.serving.triton import shared_memory
from atoll.serving.triton.tensors import Array, Failure


async def infer(
    model: str, outputs: list[str], inputs: Mapping[str, Array], parameters: Mapping[str, Any]
) -> list[Array]:
    """Outputs of a model that gives one response.

    Raises:
        GenerationError: the model answered with an error.
    """
    answer = await _request(model, outputs, inputs, parameters, "").async_exec()
    if answer.has_error():
        raise GenerationError(f"{model}: {answer.error().message()}")
    return [pb_utils.get_output_tensor_by_name(answer, name).as_numpy() for name in outputs]


def hand_on(
    model: str, inputs: Mapping[str, Array], parameters: Mapping[str, Any], request_id: str = ""
) -> None:
    """Sends a request to a decoupled model that answers over a socket (see ``answer_stream``).

    Raises:
        Failure: Triton's error; the request was not delivered.
        Overloaded: there is no room for it in shared memory.
    """
    num_bytes = shared_memory.num_bytes(inputs)
    if not shared_memory.has_room_for_messages():
        free = shared_memory.free_text()
        raise Overloaded(f"a turn of {num_bytes} bytes finds no room, with {free}")
    asked = _request(model, [], inputs, parameters, request_id)
    # All are read: an iterator that is not exhausted crashes the whole server.
    errors = [r.error() for r in asked.exec(decoupled=True) if r.has_error()]
    if errors and shared_memory.is_exhausted():
        raise Overloaded(
            f"a turn of {num_bytes} bytes could not be handed on, with "
            f"{shared_memory.free_text()}: {errors[0].message()}"
        )
    if errors:
        raise Failure(errors[0].code(), errors[0].message())


def _request(
    model: str, outputs: list[str], inputs: Mapping[str, Array], parameters: Mapping[str, Any],
    request_id: str,
) -> Any:  # fmt: skip
    return pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=outputs,
        inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        parameters=dict(parameters),
        request_id=request_id,
    )
