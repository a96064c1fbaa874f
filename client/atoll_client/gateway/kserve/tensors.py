"""Tensors of requests: datatypes, and the check of data against shape and datatype.

Triton trusts its clients in several places, and crashes if they are wrong. So only data whose
length is exactly that of its shape and datatype is passed on.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from atoll_client.errors import ValidationError
from atoll_client.kserve import DTYPES

# Bytes of an element. BYTES elements have any length, which precedes them. numpy has no BF16.
SIZES = {name: np.dtype(dtype).itemsize for name, dtype in DTYPES.items()} | {"BF16": 2}
MAX_RANK = 16
MAX_DIMENSION = 2**31 - 1
MAX_ELEMENTS = 2**31 - 1
# Checking each element takes a tenth of a second for this many.
MAX_BYTES_ELEMENTS = 1_000_000
_LENGTH = struct.Struct("<I")


def count_elements(name: str, shape: Sequence[int]) -> int:
    """The number of elements of a shape.

    Raises:
        ValidationError: too many dimensions, one that is negative or too large, or too many
            elements, even if another dimension is 0.
    """
    if len(shape) > MAX_RANK:
        raise ValidationError(
            f"tensor '{name}' has {len(shape)} dimensions; the limit is {MAX_RANK}"
        )
    for size in shape:
        if not 0 <= size <= MAX_DIMENSION:
            raise ValidationError(
                f"tensor '{name}' has a dimension of {size}; the limits are 0 and {MAX_DIMENSION}"
            )
    if math.prod(size for size in shape if size) > MAX_ELEMENTS:
        raise ValidationError(
            f"tensor '{name}' has the shape {_text(shape)}; the limit is {MAX_ELEMENTS} elements"
        )
    return math.prod(shape)


def check_data(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> None:
    """Checks a tensor's binary data against its shape and datatype.

    Raises:
        ValidationError: the length is wrong, or the elements of a BYTES tensor are incomplete.
    """
    count = count_elements(name, shape)
    if datatype == "BYTES":
        _check_bytes(name, shape, count, raw)
        return
    if datatype not in SIZES:
        known = ", ".join((*SIZES, "BYTES"))
        raise ValidationError(f"tensor '{name}' has the datatype '{datatype}'; known: {known}")
    expected = count * SIZES[datatype]
    if len(raw) != expected:
        raise ValidationError(
            f"tensor '{name}' has {len(raw)} bytes of data; {datatype} in the shape "
            f"{_text(shape)} has {expected}"
        )
    if datatype == "BOOL" and raw.translate(None, b"\0\1"):
        raise ValidationError(f"tensor '{name}' has a byte that is neither 0 nor 1, and is BOOL")


def _check_bytes(name: str, shape: Sequence[int], count: int, raw: bytes) -> None:
    if count > MAX_BYTES_ELEMENTS:
        raise ValidationError(
            f"tensor '{name}' has {count} elements; the limit for BYTES is {MAX_BYTES_ELEMENTS}"
        )
    at, size, read = 0, len(raw), _LENGTH.unpack_from
    for index in range(count):
        if at + 4 > size:
            raise ValidationError(
                f"tensor '{name}' has data for {index} elements; its shape {_text(shape)} "
                f"has {count}"
            )
        at += 4 + read(raw, at)[0]
    if at != size:
        raise ValidationError(
            f"tensor '{name}' has {size} bytes of data; its {count} elements end at {at}"
        )


def pack(name: str, datatype: str, values: Sequence[Any]) -> bytes:
    """Elements from JSON or a protobuf message, in binary.

    Raises:
        ValidationError: an element has another type, or is out of the datatype's range.
    """
    kinds = set(map(type, values))
    if datatype == "BYTES":
        if not kinds <= {str, bytes}:
            raise _wrong(name, datatype, values, (str, bytes))
        encoded = [v.encode() if type(v) is str else v for v in values]
        return b"".join([_LENGTH.pack(len(v)) + v for v in encoded])
    if datatype not in DTYPES or datatype == "FP16":
        raise ValidationError(
            f"receiving {datatype} data as values is not supported; "
            f"use binary data for input '{name}'"
        )
    if not values:
        return b""
    dtype = np.dtype(DTYPES[datatype])
    if datatype == "BOOL":
        if not kinds <= {bool, int} or not set(values) <= {0, 1}:
            raise _wrong(name, datatype, values, (bool,))
    elif dtype.kind in "iu":
        if kinds != {int}:
            raise _wrong(name, datatype, values, (int,))
        limits = np.iinfo(dtype)
        if min(values) < limits.min or max(values) > limits.max:
            raise ValidationError(
                f"input '{name}' has a value beyond the range of {datatype}: "
                f"{min(values) if min(values) < limits.min else max(values)}"
            )
    elif not kinds <= {int, float}:
        raise _wrong(name, datatype, values, (int, float))
    with np.errstate(over="ignore"):
        array = np.array(values, np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    if dtype.kind == "f" and np.isinf(array).any() and not _has_infinity(values):
        raise ValidationError(f"input '{name}' has a value beyond the range of {datatype}")
    return array.tobytes()


def _has_infinity(values: Sequence[Any]) -> bool:
    return any(value in (math.inf, -math.inf) for value in values)


def _wrong(name: str, datatype: str, values: Sequence[Any], kinds: tuple[type, ...]) -> Exception:
    first = next((v for v in values if type(v) not in kinds), values[0] if values else None)
    return ValidationError(
        f"input '{name}' has the value {str(first)[:50]!r} ({type(first).__name__}); "
        f"its datatype is {datatype}"
    )


def _text(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
