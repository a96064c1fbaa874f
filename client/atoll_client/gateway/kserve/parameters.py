"""Parameters of requests: their names and types, and their conversion from JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from atoll_client.errors import ValidationError

FINAL = "triton_final_response"
EMPTY_FINAL = "triton_enable_empty_final_response"
# Of our own clients, to our own models: errors in streams as JSON, with their type.
JSON_ERRORS = "json_errors"
_INT64, _UINT64 = 2**63, 2**64
# Triton truncates longer ids of sequences.
_MAX_SEQUENCE_ID_BYTES = 128
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
_VERSION = re.compile("[0-9]{0,18}")
_KINDS = {
    "sequence_start": ("bool_param",), "sequence_end": ("bool_param",),
    "sequence_id": ("int64_param", "string_param"),
    "priority": ("int64_param", "uint64_param"), "timeout": ("int64_param",),
    EMPTY_FINAL: ("bool_param",),
}  # fmt: skip


def write(target: Any, parameters: Mapping[str, Any]) -> None:
    """Converts parameters from JSON to a message's map, without the checks of ``check``.

    Raises:
        ValidationError: no parameter can have such a value.
    """
    for name, value in parameters.items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int):
            _write_integer(target, name, value)
        elif isinstance(value, float):
            target[name].double_param = value
        elif isinstance(value, str):
            target[name].string_param = value
        else:
            raise ValidationError(
                f"parameter '{name}' has invalid type. "
                "It should be either 'int', 'bool', 'double' or 'string'."
            )


def _write_integer(target: Any, name: str, value: int) -> None:
    if -_INT64 <= value < _INT64:
        target[name].int64_param = value
    elif name == "sequence_id" and 0 <= value < _UINT64:
        # Triton reads the bits of the signed field as an unsigned number.
        target[name].int64_param = value - _UINT64
    elif name == "priority" and 0 <= value < _UINT64:
        target[name].uint64_param = value
    else:
        raise ValidationError(f"parameter '{name}' is {value}, beyond 64 bits")


def check(parameters: Any) -> None:
    """Checks a request's parameters.

    Raises:
        ValidationError: names the parameter and the expected type or range.
    """
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        _check_text("a parameter's name", name)
        if name in _SHARED_MEMORY:
            raise no_shared_memory(f"parameter '{name}'")
        if name.startswith("triton_") and name != EMPTY_FINAL:
            raise ValidationError(
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the "
                f"following keys starting with 'triton_' are allowed: {EMPTY_FINAL}"
            )
        kinds = _KINDS.get(name, ("int64_param", "bool_param", "string_param", "double_param"))
        if choice not in kinds:
            raise ValidationError(
                f"invalid value type for '{name}' parameter, expected {' or '.join(kinds)}."
            )
        if choice == "string_param":
            _check_text(f"parameter '{name}'", value.string_param)
        _check_range(name, getattr(value, choice))


def _check_range(name: str, value: Any) -> None:
    if name in ("priority", "timeout") and value < 0:
        raise ValidationError(f"invalid value for '{name}', expected value >= 0.")
    if name == "sequence_id" and isinstance(value, str):
        size = len(value.encode())
        if size > _MAX_SEQUENCE_ID_BYTES:
            raise ValidationError(
                f"sequence_id has {size} bytes; the limit is {_MAX_SEQUENCE_ID_BYTES}"
            )


def check_id(request_id: str) -> None:
    """Checks a request's id.

    Raises:
        ValidationError: it is too long, or contains a zero character.
    """
    _check_text("id", request_id)
    if len(request_id) > 1024:
        raise ValidationError(f"id has {len(request_id)} characters; the limit is 1024")


def check_version(version: str) -> None:
    """Checks a model's version.

    Raises:
        ValidationError: it is not a number.
    """
    if not _VERSION.fullmatch(version):
        raise ValidationError(
            f"failed to get model version from specified version string '{version[:50]}', "
            "version should be an integral value > 0"
        )


def _check_text(what: str, text: str) -> None:
    """Raises ValidationError: Triton would cut off the text at a zero character."""
    if "\0" in text:
        raise ValidationError(f"{what} holds a zero character: {text[:50]!r}")


def no_shared_memory(what: str) -> ValidationError:
    """The error of requests for shared memory, which belongs to the server's machine."""
    return ValidationError(f"{what}: shared memory is not offered by the gateway")


def check_of_tensor(kind: str, name: str, parameters: Any, known: tuple[str, ...]) -> None:
    """Checks the parameters of an input or output.

    Raises:
        ValidationError: shared memory, or an unknown parameter.
    """
    for key in parameters:
        if key in _SHARED_MEMORY:
            raise no_shared_memory(f"{kind} '{name}': parameter '{key}'")
        if key not in known:
            raise ValidationError(f"{kind} '{name}': there is no parameter '{key}'")
