"""Reads JSON requests, with or without binary tensors after the JSON, as ModelInfer messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from tritonclient.grpc import service_pb2 as pb

from atoll_client.errors import MalformedRequest, TooLarge, ValidationError
from atoll_client.gateway.json_text import parse
from atoll_client.gateway.kserve import parameters
from atoll_client.gateway.kserve.signature import Signature
from atoll_client.gateway.kserve.tensors import SIZES, count_elements, pack
from atoll_client.kserve import Message

_BINARY_SIZE, _BINARY_OUTPUT, _BINARY = "binary_data_size", "binary_data_output", "binary_data"


class Asked(NamedTuple):
    """A request, and which outputs to send in binary: ``binary`` by name, else ``is_binary``."""

    message: Message
    binary: Mapping[str, bool]
    is_binary: bool

    def wants_binary(self, output: str) -> bool:
        """Whether an output's data follows the JSON."""
        return self.binary.get(output, self.is_binary)


def read_json(raw: bytes, limit: int) -> dict[str, Any]:
    """A JSON object.

    Raises:
        TooLarge: it has more than ``limit`` bytes. MalformedRequest: it is not a JSON object, or a
            key occurs twice. Integers of more than 64 bits are left to the checks of parameters
            and datatypes.
    """
    if len(raw) > limit:
        raise TooLarge(
            f"the request's JSON has {len(raw)} bytes; payload_limit is {limit}. "
            "Send large tensors as binary data"
        )
    found = parse(raw, "failed to parse the request JSON buffer", has_long_integers=True)
    if not isinstance(found, dict):
        raise MalformedRequest("failed to parse the request JSON buffer: it is not an object")
    return found


def read_request(
    body: bytes, header_length: int | None, signature: Signature, version: str, limit: int
) -> Asked:
    """The request in a body.

    Args:
        header_length: bytes of the JSON, if tensors follow it; 0: the body is the only input.
        limit: the most bytes of JSON.

    Raises:
        ValidationError: names the wrong field.
    """
    message = pb.ModelInferRequest(model_name=signature.model, model_version=version)
    if header_length == 0:
        _add_raw(message, body, signature)
        return Asked(message, {}, True)
    if header_length is not None and header_length > len(body):
        raise ValidationError(
            f"unexpected size for request JSON, expecting {header_length - len(body)} more bytes"
        )
    view = memoryview(body)
    head = body if header_length is None else bytes(view[:header_length])
    found = read_json(head, limit)
    _check_keys("the request", found, ("id", "parameters", "inputs", "outputs"))
    message.id = _text(found, "id", "the request") if "id" in found else ""
    given = dict(_object(found, "parameters", "the request"))
    is_binary = given.pop(_BINARY_OUTPUT, False)
    if not isinstance(is_binary, bool):
        raise ValidationError(f"Unable to parse '{_BINARY_OUTPUT}': it is not a boolean")
    if parameters.EMPTY_FINAL in given:
        raise ValidationError(
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not "
            "be specified."
        )
    parameters.write(message.parameters, given)
    rest = view[len(head) :]
    for tensor in _objects(found, "inputs"):
        rest = rest[_add_input(message, tensor, rest) :]
    if rest:
        raise ValidationError(
            f"unexpected additional input data for model '{signature.model}': {len(rest)} bytes"
        )
    binary = dict(_add_output(message, tensor) for tensor in _objects(found, "outputs", []))
    return Asked(message, {k: is_binary if v is None else v for k, v in binary.items()}, is_binary)


def _add_input(message: Message, tensor: dict[str, Any], rest: memoryview) -> int:
    """Adds an input, and returns how many bytes of ``rest`` are its data."""
    name = _text(tensor, "name", "an input")
    what = f"input '{name[:100]}'"
    _check_keys(what, tensor, ("name", "shape", "datatype", "data", "parameters"))
    datatype = _text(tensor, "datatype", what)
    shape = tensor.get("shape")
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise ValidationError(f"{what}: Unable to parse 'shape': it is not a list of integers")
    count = count_elements(name, shape)
    given = dict(_object(tensor, "parameters", what))
    size = given.pop(_BINARY_SIZE, None)
    added = message.inputs.add(name=name, datatype=datatype, shape=shape)
    parameters.write(added.parameters, given)
    if size is None:
        if "data" not in tensor:
            raise ValidationError(f"{what} has no 'data' and no '{_BINARY_SIZE}'")
        values = flattened(name, tensor["data"], shape, count)
        message.raw_input_contents.append(pack(name, datatype, values))
        return 0
    if "data" in tensor:
        raise ValidationError(f"{what} has 'data' and '{_BINARY_SIZE}'; one is right")
    if type(size) is not int or not 0 <= size <= len(rest):
        raise ValidationError(
            f"{what}: '{_BINARY_SIZE}' is {size!r}; {len(rest)} bytes of binary data are left"
        )
    message.raw_input_contents.append(bytes(rest[:size]))
    return size


def flattened(name: str, data: Any, shape: Sequence[int], count: int) -> list[Any]:
    """The elements of lists nested according to the shape, or of one flat list.

    Raises:
        ValidationError: ``data`` is neither.
    """
    problem = ValidationError(
        f"input '{name}': Unable to parse 'data': Shape does not match true shape of 'data' field"
    )
    if not isinstance(data, list):
        if shape:
            raise problem
        return [data]
    level = data
    if any(type(item) is list for item in data):
        if len(level) != (shape[0] if shape else 1):
            raise problem
        for size in shape[1:]:
            if any(type(item) is not list or len(item) != size for item in level):
                raise problem
            level = list(chain.from_iterable(level))
        if any(type(item) is list for item in level):
            raise problem
    if len(level) != count:
        raise problem
    return level


def _add_output(message: Message, tensor: dict[str, Any]) -> tuple[str, bool | None]:
    """Adds an output. Returns its name, and whether to send it in binary; None: the default."""
    name = _text(tensor, "name", "an output")
    what = f"output '{name[:100]}'"
    _check_keys(what, tensor, ("name", "parameters"))
    given = dict(_object(tensor, "parameters", what))
    is_binary = given.pop(_BINARY, None)
    if is_binary is not None and not isinstance(is_binary, bool):
        raise ValidationError(f"{what}: Unable to parse '{_BINARY}': it is not a boolean")
    # Clients send 0 for no classes.
    if given.get("classification") == 0:
        del given["classification"]
    parameters.write(message.outputs.add(name=name).parameters, given)
    return name, is_binary


def _add_raw(message: Message, body: bytes, signature: Signature) -> None:
    """Adds a body that is the model's only input; its shape follows from its length."""
    if len(signature.inputs) != 1:
        raise ValidationError(
            "Raw request must only have 1 input (found 1) to be deduced but got "
            f"{len(signature.inputs)} inputs in '{signature.model}' model configuration"
        )
    (name, declared), *_ = signature.inputs.items()
    shape = list(declared.shape)
    if signature.is_batched:
        shape[0] = 1
    data = body if declared.datatype != "BYTES" else pack(name, "BYTES", [body])
    known = math.prod(size for size in shape if size != -1)
    size = 1 if declared.datatype == "BYTES" else SIZES.get(declared.datatype, 1) * known
    if shape.count(-1) > 1:
        raise ValidationError(
            f"The shape of Raw request must be deducible: '{name}' of model '{signature.model}' "
            f"has the shape {list(declared.shape)}"
        )
    if -1 in shape:
        at = shape.index(-1)
        shape[at] = 1 if declared.datatype == "BYTES" else len(body) // size if size else 0
    message.inputs.add(name=name, datatype=declared.datatype, shape=shape)
    message.raw_input_contents.append(data)


def _objects(found: Mapping[str, Any], name: str, default: Any = None) -> list[dict[str, Any]]:
    items = found.get(name, default)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValidationError(f"Unable to parse '{name}': it is not a list of objects")
    return items


def _object(found: Mapping[str, Any], name: str, what: str) -> Mapping[str, Any]:
    item = found.get(name, {})
    if not isinstance(item, dict):
        raise ValidationError(f"{what}: Unable to parse '{name}': it is not an object")
    return item


def _text(found: Mapping[str, Any], name: str, what: str) -> str:
    text = found.get(name)
    if not isinstance(text, str):
        raise ValidationError(f"{what}: Unable to parse '{name}': it is not a string")
    return text


def _check_keys(what: str, found: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(found.keys() - set(known))
    if unknown:
        raise ValidationError(
            f"{what} has no field '{unknown[0][:100]}'; known: {', '.join(known)}"
        )
