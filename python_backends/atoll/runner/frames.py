"""Serializes frozen dataclasses of arrays: a table of contents in JSON, then the arrays.

Steps are sent to other processes and saved in this form. Unlike pickle, it can only contain data.

    length of the table (8 bytes) | [[name, dtype, shape, offset], ...] | arrays, 64 bytes aligned
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

_ALIGNMENT = 64
_LENGTH = 8


def to_bytes(value: Any) -> bytes:
    """A dataclass whose fields are arrays, such dataclasses, or None."""
    arrays = [(name, np.ascontiguousarray(array)) for name, array in _flat("", value)]
    table, offset = list[Any](), 0
    for name, array in arrays:
        table.append([name, array.dtype.str, array.shape, offset])
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    head = json.dumps(table).encode()
    head += b" " * (-(_LENGTH + len(head)) % _ALIGNMENT)
    frame = bytearray(_LENGTH + len(head) + offset)
    frame[:_LENGTH] = len(head).to_bytes(_LENGTH, "little")
    frame[_LENGTH : _LENGTH + len(head)] = head
    for (_, array), (*_, start) in zip(arrays, table, strict=True):
        start += _LENGTH + len(head)
        frame[start : start + array.nbytes] = array.tobytes()
    return bytes(frame)


def from_bytes(cls: type[T], frame: bytes) -> T:
    """The dataclass that ``to_bytes`` has written; its arrays are read-only views of the frame.

    Raises:
        ValueError: the frame is truncated, or has a field that the class lacks.
    """
    length = int.from_bytes(frame[:_LENGTH], "little")
    start = _LENGTH + length
    arrays = {}
    for name, dtype, shape, offset in json.loads(frame[_LENGTH:start]):
        found = np.frombuffer(frame, dtype, math.prod(shape), start + offset)
        arrays[name] = found.reshape(shape)
    value: T = _filled("", cls, arrays)
    if arrays:
        raise ValueError(f"{cls.__name__} has no {', '.join(arrays)}")
    return value


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        if dataclasses.is_dataclass(found):
            yield from _flat(f"{prefix}{field.name}.", found)
        elif found is not None:
            yield prefix + field.name, found


def _filled(prefix: str, cls: Any, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    """Takes the fields of ``cls`` out of ``arrays``."""
    values: dict[str, Any] = {}
    for name, kind in _kinds(cls).items():
        if kind is None:
            values[name] = arrays.pop(prefix + name, None)
        elif any(key.startswith(f"{prefix}{name}.") for key in arrays):
            values[name] = _filled(f"{prefix}{name}.", kind, arrays)
        else:
            values[name] = None
    return cls(**values)


@cache
def _kinds(cls: Any) -> Mapping[str, Any]:
    """The dataclass that each field holds; None for an array."""
    hints = get_type_hints(cls)
    inner = {name: [hint, *get_args(hint)] for name, hint in hints.items()}
    return {
        name: next((k for k in kinds if dataclasses.is_dataclass(k)), None)
        for name, kinds in inner.items()
    }
