"""A server's response as JSON, followed by binary tensors where they are requested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from atoll_client.errors import GenerationError, ValidationError
from atoll_client.gateway.core.web import Reply, dump
from atoll_client.gateway.kserve import answers
from atoll_client.gateway.kserve.parameters import FINAL
from atoll_client.gateway.kserve.tensors import check_data
from atoll_client.kserve import DTYPES, Message, elements

HEADER_LENGTH = "inference-header-content-length"
BINARY = "application/octet-stream"


class Tensors(Reply[bytes]):
    """JSON, followed by binary tensors."""

    media_type = BINARY


def write_response(
    response: Message, wants_binary: Callable[[str], bool]
) -> Reply[answers.InferResponse] | Tensors:
    """The response to an infer request.

    Raises:
        ValidationError: an output cannot be written in JSON. GenerationError: the server's answer
            is broken.
    """
    parts: list[bytes] = []
    outputs = []
    for output, raw in tensors(response):
        found: answers.InferredOutput = {
            "name": output.name, "datatype": output.datatype, "shape": list(output.shape),
        }  # fmt: skip
        if wants_binary(output.name):
            found["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            found["data"] = values(output.name, output.datatype, raw)
        outputs.append(found)
    answer: answers.InferResponse = {
        **about(response), "outputs": outputs, "parameters": parameter_values(response),
    }  # fmt: skip
    if not response.parameters:
        del answer["parameters"]
    head = dump(answer)
    if not parts:
        return Reply(head)
    headers = {HEADER_LENGTH: str(len(head))}
    return Tensors(b"".join((head, *parts)), headers=headers)


def write_generated(response: Message) -> answers.GenerateResponse:
    """A response of /generate: tensors of one element are plain values.

    Raises:
        As ``write_response``.
    """
    found: dict[str, Any] = {**parameter_values(response), **about(response)}
    # Only streams over gRPC have it.
    found.pop(FINAL, None)
    for output, raw in tensors(response):
        items = values(output.name, output.datatype, raw)
        found[output.name] = items[0] if len(items) == 1 else items
    return cast(answers.GenerateResponse, found)


def about(response: Message) -> answers.ResponseIdentity:
    """The model, and the request's id if it has one."""
    named: answers.ResponseIdentity = {
        "model_name": response.model_name, "model_version": response.model_version,
    }  # fmt: skip
    return {"id": response.id, **named} if response.id else named


def parameter_values(response: Message) -> dict[str, Any]:
    """A response's parameters."""
    return {
        name: getattr(value, choice)
        for name, value in response.parameters.items()
        if (choice := value.WhichOneof("parameter_choice"))
    }


def tensors(response: Message) -> list[tuple[Any, bytes]]:
    """Outputs with their data.

    Raises:
        GenerationError: shape, datatype and data contradict each other.
    """
    if len(response.outputs) != len(response.raw_output_contents):
        raise GenerationError(
            f"the server's answer has {len(response.outputs)} outputs and data for "
            f"{len(response.raw_output_contents)}"
        )
    found = list(zip(response.outputs, response.raw_output_contents, strict=True))
    for output, raw in found:
        try:
            check_data(output.name, output.datatype, output.shape, raw)
        except ValidationError as error:
            raise GenerationError(f"the server's answer is broken: {error}") from None
    return found


def values(name: str, datatype: str, raw: bytes) -> list[Any]:
    """A tensor's elements, flat.

    Raises:
        ValidationError: they cannot be written in JSON.
    """
    if datatype == "BYTES":
        try:
            return [item.decode() for item in elements(raw)]
        except UnicodeDecodeError:
            raise ValidationError(
                f"output '{name}' holds bytes that are no UTF-8, which JSON cannot hold. "
                "Please use the binary data format for it"
            ) from None
    if datatype in ("FP16", "BF16"):
        raise ValidationError(
            f"sending {datatype} data via JSON is not supported. Please use the binary data "
            f"format for output '{name}'"
        )
    array = np.frombuffer(raw, DTYPES[datatype])
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValidationError(
            f"output '{name}' holds a value that is infinite or no number, which JSON cannot "
            "hold. Please use the binary data format for it"
        )
    found: list[Any] = array.tolist()
    return found
