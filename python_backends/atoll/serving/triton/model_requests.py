"""Requests of one model to another of the same server (Triton's business logic scripting)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from atoll.errors import GenerationError, Overloaded
from atoll.serving.triton import shared_memory
from atoll.serving.triton.tensors import Array


class Refused(Exception):
    """Triton did not hand a request on. error: its own, to be passed on as it is."""

    def __init__(self, error: Any) -> None:
        super().__init__(error.message())
        self.error = error


async def infer(model: str, outputs: list[str], inputs: Mapping[str, Array]) -> list[Array]:
    """Outputs of a model that gives one response.

    Raises:
        GenerationError: the model answered with an error.
    """
    answer = await _request(model, outputs, inputs, {}, "").async_exec()
    if answer.has_error():
        raise GenerationError(f"{model}: {answer.error().message()}")
    return [pb_utils.get_output_tensor_by_name(answer, name).as_numpy() for name in outputs]


def hand_on(
    model: str, inputs: Mapping[str, Array], parameters: Mapping[str, Any], request_id: str = ""
) -> None:
    """Sends a request to a decoupled model that answers another way (see ``answer_stream``).

    Raises:
        Refused: it did not get there.
        Overloaded: there is no room for it in shared memory.
    """
    num_bytes = shared_memory.num_bytes(inputs)
    if not shared_memory.has_room_for_messages():
        free = shared_memory.free_text()
        raise Overloaded(f"a turn of {num_bytes} bytes finds no room, with {free}")
    asked = _request(model, [], inputs, parameters, request_id)
    # All are taken: an iterator that is left before its end crashes the whole server.
    errors = [r.error() for r in asked.exec(decoupled=True) if r.has_error()]
    if errors and shared_memory.is_exhausted():
        raise Overloaded(
            f"a turn of {num_bytes} bytes could not be handed on, with "
            f"{shared_memory.free_text()}: {errors[0].message()}"
        )
    if errors:
        raise Refused(errors[0])


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
