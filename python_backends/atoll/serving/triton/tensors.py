"""Converts Triton's tensors to plain Python and back; no other code touches request tensors.

Every reader raises ``ValidationError`` with the field, its value and what is allowed; ``failure``
turns any error into a Triton response.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from atoll import json_text
from atoll.errors import AtollError, ConfigError, ValidationError
from atoll.serving.requests.report import FORWARDED

T = TypeVar("T")
Array = npt.NDArray[Any]
# A request parameter of every model: see ``TritonResponseSender``.
JSON_ERRORS = "json_errors"
# Marks the requests by which the launcher checks whether a model answers.
CANARY = "canary"
# Where another model listens for the answer: see ``answer_stream``.
ANSWERS_TO = "answers_to"
# Request parameters that are handled elsewhere. Triton's ``/generate`` takes the request's id from
# its body, and also passes it on as a parameter.
_NOT_OURS = (JSON_ERRORS, CANARY, "id", *FORWARDED)
# Messages quote what a client has sent, and must fit where an answer did not.
_MAX_MESSAGE_CHARACTERS = 4000
# Parameters of config.pbtxt that Triton's Python backend reads itself.
_BACKEND_PARAMETERS = frozenset({"EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS"})


class Failure(Exception):
    """Another model's error, which is passed on unchanged. code: Triton's, or its name."""

    def __init__(self, code: Any, text: str, error_type: str = "internal") -> None:
        super().__init__(code, text, error_type)
        self.code, self.text, self.error_type = code, text, error_type


def settings_parameters(model_config: str) -> dict[str, str]:
    """The ``parameters`` of a config.pbtxt, as flat strings, from ``args["model_config"]``.

    Raises:
        ConfigError: the entry asks for Triton's response cache, which would give wrong answers.
    """
    config = json.loads(model_config)
    if config.get("response_cache", {}).get("enable"):
        raise ConfigError(
            "response_cache is enabled in config.pbtxt, but Triton's cache does not tell requests "
            "apart by their parameters (normalize, dimensions, control, ...): remove it"
        )
    return {
        name: value["string_value"]
        for name, value in config.get("parameters", {}).items()
        if name not in _BACKEND_PARAMETERS
    }


def max_rows(model_config: str, most: int) -> int:
    """Rows that a request may have: ``most``, or the entry's ``max_batch_size`` if that is less."""
    return min(json.loads(model_config).get("max_batch_size") or most, most)


def output_names(model_config: str) -> set[str]:
    """The outputs of a config.pbtxt."""
    return {output["name"] for output in json.loads(model_config).get("output", ())}


def array(request: Any, name: str, dtype: type[np.generic]) -> Array | None:
    """An input tensor, or None if the request has none.

    Raises:
        ValidationError: the tensor has another dtype.
    """
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    found: Array = tensor.as_numpy()
    if found.dtype != np.dtype(dtype):
        raise ValidationError(f"{name} has dtype {found.dtype}; expected {np.dtype(dtype).name}")
    return found


def strings(request: Any, name: str) -> list[str] | None:
    """All elements of a BYTES input in row-major order, as text; None if it is missing.

    Raises:
        ValidationError: an element is not UTF-8; names its index and byte.
    """
    raw = array(request, name, np.object_)
    if raw is None:
        return None
    return [_text(name, index, item) for index, item in enumerate(raw.reshape(-1))]


def has(request: Any, name: str) -> bool:
    """Whether a request has an input."""
    return pb_utils.get_input_tensor_by_name(request, name) is not None


def blobs(request: Any, name: str) -> list[bytes] | None:
    """All elements of a BYTES input in row-major order, as they are; None if it is missing."""
    raw = array(request, name, np.object_)
    if raw is None:
        return None
    return [i.encode() if isinstance(i, str) else bytes(i) for i in raw.reshape(-1)]


def string(request: Any, name: str) -> str | None:
    """The single element of a BYTES input, as text; None if it is missing or has no elements."""
    return _single(name, strings(request, name) or [])


def boolean(request: Any, name: str) -> bool | None:
    """The single element of a BOOL input; None if it is missing or has no elements."""
    found = array(request, name, np.bool_)
    return None if found is None else _single(name, found.reshape(-1).tolist())


def integers(request: Any, name: str) -> list[int] | None:
    """All elements of an INT32 input; None if it is missing."""
    found = array(request, name, np.int32)
    return None if found is None else found.reshape(-1).tolist()


def parsed_parameters(request: Any) -> dict[str, Any]:
    """All of a request's parameters, including the server's own.

    Raises:
        ValidationError: as ``read_parameters`` returns.
    """
    found, error = read_parameters(request)
    if error is not None:
        raise error
    return found


def read_parameters(request: Any) -> tuple[dict[str, Any], ValidationError | None]:
    """Parameters, and their error if they are wrong; they determine how errors are sent.

    Wrong is one that is given twice, of which Triton would use either value, and what is not UTF-8:
    a header that the server forwards may hold any byte.
    """
    try:
        text = request.parameters()
    except UnicodeDecodeError:
        names = ", ".join(FORWARDED)
        return {}, ValidationError(
            f"a parameter, or one of the forwarded headers ({names}), is not UTF-8"
        )
    if not text:
        return {}, None
    try:
        found: dict[str, Any] = json_text.loads(text)
    except ValueError as error:
        return json.loads(text), ValidationError(f"parameters: {error}")
    # HTTP's headers come in the case in which they were sent.
    return {k.lower() if k.lower() in FORWARDED else k: v for k, v in found.items()}, None


def own_parameters(found: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The request's own parameters (KServe ``parameters``), by name.

    Without those that belong to the server: names that start with ``triton_`` or ``binary_data``,
    ``json_errors``, ``canary``, ``id``, and headers that the server was told to forward.

    Raises:
        ValidationError: a parameter that is not in ``known``.
    """
    own = {
        k: v
        for k, v in found.items()
        if k not in _NOT_OURS and not k.startswith(("triton_", "binary_data"))
    }
    known = sorted(known)
    for name in own:
        if name not in known:
            raise ValidationError(f"unknown parameter {name!r}; known: {', '.join(known)}")
    return own


def as_bool(name: str, value: Any) -> bool:
    """A boolean option; text is accepted, since some clients can only send text."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "1", "0"):
        return value.strip().lower() in ("true", "1")
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise ValidationError(f"{name} is {value!r}; expected true or false")


def as_int(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """An integer option within limits; numbers in text are accepted."""
    if type(value) is int or (isinstance(value, str) and value.isdecimal() and len(value) < 21):
        # Not converted through float, which cannot represent all 64-bit seeds.
        return int(_within(name, int(value), least, most))
    number = as_float(name, value)
    if number != math.floor(number):
        raise ValidationError(f"{name} is {value!r}; expected an integer")
    return int(_within(name, int(number), least, most))


def as_float(name: str, value: Any, least: float | None = None, most: float | None = None) -> float:
    """A number option within limits; numbers in text are accepted."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValidationError(f"{name} is {value!r}; expected a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValidationError(f"{name} is {value!r}; expected a number") from None
    if not math.isfinite(number):
        raise ValidationError(f"{name} is {value!r}; expected a finite number")
    return float(_within(name, number, least, most))


def texts(values: Iterable[str]) -> Array:
    """An array of text for a tensor."""
    return np.array([value.encode() for value in values], dtype=np.object_)


def response(outputs: Mapping[str, Array]) -> Any:
    """A response from numpy arrays; text arrays have dtype object."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in outputs.items()])


def failure(error: BaseException, as_json: bool = False) -> Any:
    """A response that carries the error, with the code of its class in ``atoll.errors``."""
    code, text = error_parts(error, as_json)
    if isinstance(code, str):
        code = getattr(pb_utils.TritonError, code)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


def error_parts(error: BaseException, as_json: bool = False) -> tuple[Any, str]:
    """(name of the code, text) of any exception."""
    if isinstance(error, Failure):
        return error.code, error.text
    code, kind, text = "INTERNAL", AtollError.error_type, f"{type(error).__name__}: {error}"
    if isinstance(error, AtollError):
        code, kind, text = error.triton_code, error.error_type, str(error)
    if len(text) > _MAX_MESSAGE_CHARACTERS:
        text = f"{text[:_MAX_MESSAGE_CHARACTERS]} [and {len(text) - _MAX_MESSAGE_CHARACTERS} more]"
    if as_json:
        text = json.dumps({"error": text, "error_type": kind}, ensure_ascii=False)
    return code, text


FINAL: int = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def _single(name: str, found: list[T]) -> T | None:
    if len(found) > 1:
        raise ValidationError(f"{name} has {len(found)} elements; expected 1")
    return found[0] if found else None


def _text(name: str, index: int, item: Any) -> str:
    if isinstance(item, str):
        return item
    try:
        return bytes(item).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValidationError(
            f"{name}[{index}] is not valid UTF-8 at byte {error.start}: {error.reason}"
        ) from None


def _within(name: str, number: Any, least: float | None, most: float | None) -> Any:
    if least is not None and number < least:
        raise ValidationError(f"{name} is {number}; the least allowed is {least}")
    if most is not None and number > most:
        raise ValidationError(f"{name} is {number}; the most allowed is {most}")
    return number
