"""Requests of one model to another of the same server (Triton's business logic scripting)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import triton_python_backend_utils as pb_utils

from atoll import json_text
from atoll.errors import NotReady, Overloaded, of_type
from atoll.serving.triton import shared_memory
from atoll.serving.triton.tensors import JSON_ERRORS, Array, Failure

# Parameters of the request that is answered which go with every request to another model: its
# trace and id, and that it is a canary.
PASSED_ON: ContextVar[Mapping[str, Any]] = ContextVar("passed_on")
# What Triton says of a model that is not loaded, or whose process has ended.
_AWAY = ("is not ready", "is not healthy")


async def infer(
    model: str, outputs: list[str], inputs: Mapping[str, Array], parameters: Mapping[str, Any],
    reworded: Callable[[str], str] = str,
) -> list[Array]:  # fmt: skip
    """Outputs of a model that gives one response. reworded: changes the message of its error.

    Raises:
        AtollError: the error of one of our models, of its own class, with its name in front.
        Failure: the error of another model, or Triton's own.
    """
    # Triton 2.51 makes every error between models INTERNAL.
    given = {**PASSED_ON.get({}), **parameters, JSON_ERRORS: True}
    answer = await _request(model, outputs, inputs, given, "").async_exec()
    if answer.has_error():
        raise _error(model, answer.error(), reworded)
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


def _error(model: str, found: Any, reworded: Callable[[str], str]) -> Exception:
    text = found.message()
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = json_text.loads(text)
        return of_type(told["error_type"])(f"{model}: {reworded(told['error'])}")
    if any(words in text for words in _AWAY):
        return NotReady(f"{model}: {text}")
    return Failure(found.code(), f"{model}: {text}")


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
