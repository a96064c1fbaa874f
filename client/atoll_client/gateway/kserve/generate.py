"""The generate extension: inputs and parameters in one JSON object, outputs as plain values."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from atoll_client.errors import ValidationError, from_stream
from atoll_client.gateway.core.error_formats import KServeError
from atoll_client.gateway.kserve import parameters
from atoll_client.gateway.kserve.answers import GenerateResponse
from atoll_client.gateway.kserve.json_response import write_generated
from atoll_client.gateway.kserve.parameters import JSON_ERRORS
from atoll_client.gateway.kserve.signature import Declared, Signature
from atoll_client.gateway.kserve.tensors import pack
from atoll_client.kserve import Message

# Inputs of TensorRT-LLM's models. LiteLLM sends them to every model, with one empty string.
_WORDS = ("bad_words", "stop_words")
_NOT_ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that "
    "generates various number of responses"
)


def read_generate(found: Mapping[str, Any], signature: Signature, version: str) -> Message:
    """The message of a body. Fields named like inputs are tensors, all others are parameters.

    The fields of ``parameters`` are read like the body's own. Lists of words to ban or to stop at
    that are empty, or hold only empty strings, are not passed on to Atoll's models.

    Raises:
        ValidationError: names the wrong field.
    """
    message = pb.ModelInferRequest(model_name=signature.model, model_version=version)
    members = {name: value for name, value in found.items() if name != "parameters"}
    nested = found.get("parameters", {})
    if "parameters" in signature.inputs:
        raise ValidationError(
            "Keyword 'parameters' for nested schema also given as input tensor name"
        )
    if not isinstance(nested, dict):
        raise ValidationError("Expected JSON object for keyword: 'parameters'")
    twice = sorted(members.keys() & nested.keys())
    if twice:
        raise ValidationError(f"'{twice[0]}' is in the request and in its 'parameters'")
    request_id = members.pop("id", "")
    if not isinstance(request_id, str):
        raise ValidationError("Unable to parse 'id': it is not a string")
    message.id = request_id
    for name, value in {**members, **nested}.items():
        if name not in signature.inputs:
            if signature.is_ours and _has_no_words(name, value):
                continue
            parameters.write(message.parameters, {name: value})
            continue
        items = value if isinstance(value, list) else [value]
        raw = pack(name, signature.inputs[name].datatype, items)
        shape = _shape(name, signature.inputs[name], len(items))
        message.inputs.add(name=name, datatype=signature.inputs[name].datatype, shape=shape)
        message.raw_input_contents.append(raw)
    return message


def _has_no_words(name: str, value: Any) -> bool:
    return name in _WORDS and isinstance(value, list) and all(one == "" for one in value)


def _shape(name: str, declared: Declared, count: int) -> list[int]:
    """The declared shape for ``count`` elements: the last open dimension takes all that remain."""
    shape = list(declared.shape)
    left = count
    for size in shape:
        if size == 0 or (size > 0 and left % size):
            raise _misfit(name)
        left = left // size if size > 0 else left
    for at in reversed(range(len(shape))):
        if shape[at] == -1:
            shape[at], left = left, 1
    if left != 1:
        raise _misfit(name)
    return shape


def _misfit(name: str) -> ValidationError:
    return ValidationError(f"The schema can not convert input '{name}' to tensor with proper shape")


def ask_for_kinds(message: Message) -> bool:
    """Makes Atoll's models send the kind of an error. Returns whether the client asked for it."""
    is_asked = JSON_ERRORS in message.parameters and message.parameters[JSON_ERRORS].bool_param
    message.parameters[JSON_ERRORS].bool_param = True
    return bool(is_asked)


async def only(responses: AsyncGenerator[Message, None]) -> Message:
    """The response of a request that has exactly one.

    Raises:
        ValidationError: it has none or several; in that case, the rest is cancelled.
    """
    first: Message | None = None
    async with contextlib.aclosing(responses):
        async for response in responses:
            if response.error_message:
                raise from_stream(response.error_message)
            if first is not None:
                raise ValidationError(_NOT_ONE)
            first = response.infer_response
    if first is None:
        raise ValidationError(_NOT_ONE)
    return first


async def events(
    responses: AsyncGenerator[Message, None], *, are_errors_plain: bool
) -> AsyncIterator[GenerateResponse | KServeError]:
    """An event for each response. An error before the first is raised, a later one is an event.

    are_errors_plain: an event shows only the text of an error, else the model's whole message.
    """
    has_begun = False
    async with contextlib.aclosing(responses):
        async for response in responses:
            text = response.error_message
            if text and not has_begun:
                raise from_stream(text)
            has_begun = True
            if text:
                yield {"error": str(from_stream(text)) if are_errors_plain else text}
                return
            yield write_generated(response.infer_response)
