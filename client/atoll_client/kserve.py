"""Requests to a model and its answers, as the server's protobuf messages.

Built and read without tritonclient's helpers: for a short text, their conversions through numpy
cost more than the call. Knows tensor names and types, but no connections.
"""

from __future__ import annotations

import itertools
import json
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2 as pb

from atoll_client.errors import UnsupportedModel, ValidationError
from atoll_client.types import Alternative, Chunk, Token

Message = Any  # protobuf's classes are made at run time
Parameters = Mapping[str, bool | int | float | str | None]

# KServe's numeric types that numpy supports.
DTYPES = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
# The parameter of a request that orders it among those that wait, and the gateway's header for it:
# lower goes first. Triton keeps its own `priority` to itself.
PRIORITY = "x-priority"
MAX_PRIORITY = 999
# The header, and so the parameter, by which the gateway tells models who asks.
CLIENT = "x-client"
_LENGTH = struct.Struct("<I")
_OWN, _COUNT = secrets.token_hex(4), itertools.count()


def unique(request_id: str = "") -> str:
    """A unique request id, by which a model can cancel the request."""
    own = f"{_OWN}-{next(_COUNT):x}"
    return f"{request_id}/{own}" if request_id else own


def request(model: str, parameters: Parameters | None = None, request_id: str = "") -> Message:
    """A request without tensors; a parameter that is None is left out."""
    message = pb.ModelInferRequest(model_name=model, id=request_id)
    for name, value in (parameters or {}).items():
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        elif isinstance(value, int):
            message.parameters[name].int64_param = value
        elif isinstance(value, float):
            message.parameters[name].double_param = value
        elif value is not None:
            message.parameters[name].string_param = value
    return message


def prioritize(message: Message, priority: int | None) -> None:
    """Sets a request's priority, unless it has one or ``priority`` is None."""
    if priority is not None and PRIORITY not in message.parameters:
        message.parameters[PRIORITY].int64_param = priority


def add_texts(
    message: Message, name: str, texts: Sequence[str | bytes], shape: Sequence[int]
) -> None:
    """A BYTES tensor."""
    message.inputs.add(name=name, datatype="BYTES", shape=shape)
    message.raw_input_contents.append(packed("BYTES", texts))


def add_flag(message: Message, name: str, value: bool) -> None:
    """A BOOL tensor of one element."""
    message.inputs.add(name=name, datatype="BOOL", shape=[1])
    message.raw_input_contents.append(b"\1" if value else b"\0")


def add_integers(message: Message, name: str, values: Sequence[int]) -> None:
    """An INT32 tensor of one dimension."""
    message.inputs.add(name=name, datatype="INT32", shape=[len(values)])
    message.raw_input_contents.append(np.asarray(values, "<i4").tobytes())


def control_request(model: str, is_batched: bool, question: Mapping[str, Any]) -> Message:
    """A request for information about the model."""
    message = request(model, {"control": json.dumps(question)})
    add_texts(message, "text_input", [""], [1, 1] if is_batched else [1])
    return message


def read_control(response: Message) -> Any:
    """The answer to a ``control_request``.

    Raises:
        UnsupportedModel: the model has answered something else.
    """
    found = outputs(response).get("control")
    if not found:
        raise UnsupportedModel(f"model {response.model_name!r} answers no control requests")
    return json.loads(found[0])


def outputs(response: Message) -> dict[str, Any]:
    """Tensors by name: numeric ones as arrays in their shape, BYTES as a flat list of bytes.

    Raises:
        UnsupportedModel: a tensor of a type that numpy does not support (BF16).
    """
    found: dict[str, Any] = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            found[output.name] = list(elements(raw))
        else:
            found[output.name] = _numbers(output, raw)
    return found


def _numbers(output: Message, raw: bytes) -> npt.NDArray[Any]:
    dtype = DTYPES.get(output.datatype)
    if dtype is None:
        raise UnsupportedModel(f"output {output.name} is {output.datatype}, which numpy lacks")
    return np.frombuffer(raw, dtype).reshape(list(output.shape))


def elements(raw: bytes) -> Iterator[bytes]:
    """The elements of a BYTES tensor."""
    at = 0
    while at < len(raw):
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        yield raw[at : at + length]
        at += length


def values(datatype: str, raw: bytes) -> list[Any]:
    """The elements of a tensor as Python values; texts as str."""
    if datatype == "BYTES":
        return [item.decode() for item in elements(raw)]
    return list(np.frombuffer(raw, DTYPES[datatype]).tolist())


def packed(datatype: str, items: Sequence[Any]) -> bytes:
    """The inverse of ``values``."""
    if datatype == "BYTES":
        # A lone surrogate, which JSON allows, has no UTF-8 encoding.
        encoded = [i if isinstance(i, bytes) else i.encode("utf-8", "replace") for i in items]
        return b"".join(_LENGTH.pack(len(b)) + b for b in encoded)
    return np.asarray(items, DTYPES[datatype]).tobytes()


def read_chunks(response: Message) -> list[Chunk]:
    """One chunk for each answer in a generator's response (more than one if n > 1)."""
    found = outputs(response)
    texts = found.get("text_output", [])
    return [_chunk(found, index, text.decode()) for index, text in enumerate(texts)]


def _chunk(found: Mapping[str, Any], index: int, text: str) -> Chunk:
    def at(name: str, default: Any) -> Any:
        values = found.get(name)
        return default if values is None or len(values) <= index else values[index]

    logprob = at("cumulative_logprob", None)
    tokens = _tokens(at("logprobs", b"[]"))
    if not tokens and "logprobs" not in found:
        tokens = tuple(Token(int(i), "") for i in _own_ids(found, index))
    return Chunk(
        text=text,
        tokens=tokens,
        finish_reason=at("finish_reason", b"").decode(),
        stop_string=at("stop_reason", b"").decode(),
        num_input_tokens=int(at("num_input_tokens", 0)),
        num_output_tokens=int(at("num_output_tokens", 0)),
        num_cached_tokens=int(at("num_cached_tokens", 0)),
        num_accepted_tokens=int(at("num_accepted_tokens", 0)),
        num_rejected_tokens=int(at("num_rejected_tokens", 0)),
        cumulative_logprob=None if logprob is None else float(logprob),
        prompt_tokens=_tokens(at("prompt_logprobs", b"[]")),
        reasoning_state=at("reasoning_state", b"").decode(),
    )


def _own_ids(found: Mapping[str, Any], index: int) -> Sequence[int]:
    """The ids of one answer; the tensor has those of all answers, concatenated."""
    ids, counts = found.get("token_ids", ()), found.get("num_output_tokens", ())
    if len(found.get("text_output", ())) < 2:
        return list(ids)
    start = int(sum(counts[:index]))
    return list(ids[start : start + int(counts[index])])


def _tokens(text: bytes) -> tuple[Token, ...]:
    """Parses vLLM's format: an object per token, keyed by id, with the token itself first."""
    found = []
    for entry in json.loads(text):
        (own, facts), *_ = entry.items()
        ranked = sorted(entry.items(), key=lambda item: item[1]["rank"] or 0)
        top = tuple(
            Alternative(int(key), _name(one), one["logprob"], _bytes(one), bool(one.get("special")))
            for key, one in ranked
            if one["logprob"] is not None
        )
        found.append(
            Token(
                int(own), facts["decoded_token"], facts["logprob"], bool(facts.get("special")),
                top, _bytes(facts), _name(facts),
            )
        )  # fmt: skip
    return tuple(found)


def _name(facts: Mapping[str, Any]) -> str:
    return str(facts.get("token", facts["decoded_token"]))


def _bytes(facts: Mapping[str, Any]) -> bytes:
    return bytes(facts["bytes"]) if "bytes" in facts else facts["decoded_token"].encode()


def add_array(message: Message, name: str, value: Any) -> None:
    """Any tensor: a numpy array, or a (nested) list of texts or numbers.

    Raises:
        ValidationError: elements of another type, or of a type that no tensor has.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValidationError(f"{name} is no tensor: {error}") from None
    if array.dtype.kind in "OUS":
        add_texts(message, name, [_as_text(name, t) for t in array.reshape(-1)], array.shape)
        return
    if array.dtype == np.bool_:
        datatype = "BOOL"
    else:
        kinds = {"f": "FP", "i": "INT", "u": "UINT"}
        datatype = f"{kinds.get(array.dtype.kind)}{8 * array.dtype.itemsize}"
    if datatype not in DTYPES:
        raise ValidationError(f"{name} has dtype {array.dtype}, which no tensor has")
    message.inputs.add(name=name, datatype=datatype, shape=array.shape)
    message.raw_input_contents.append(np.ascontiguousarray(array, DTYPES[datatype]).tobytes())


def _as_text(name: str, item: Any) -> str:
    if isinstance(item, bytes):
        try:
            return item.decode()
        except UnicodeDecodeError as error:
            raise ValidationError(f"{name} holds bytes that are not UTF-8: {error}") from None
    if not isinstance(item, str):
        raise ValidationError(f"{name} holds {item!r}; expected texts or numbers")
    return item


def as_text(found: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs with texts instead of bytes."""
    return {
        name: [item.decode() for item in value] if isinstance(value, list) else value
        for name, value in found.items()
    }
