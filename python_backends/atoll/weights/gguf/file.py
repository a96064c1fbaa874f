"""One GGUF model as it is stored: metadata, and where each tensor lies in which file.

A model may be split over files named ``-00001-of-00003.gguf``; the first has the metadata.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from atoll.errors import UnsupportedModel, WeightError

# What to do with a file that cannot be served.
INSTEAD = "; serve the checkpoint that it was made from (safetensors and tokenizer.json) instead"
SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
# No vocabulary is larger; the library reads arrays element by element.
_MAX_ELEMENTS = 1 << 24
_POINTER = b"version https://git-lfs"


class Stored(NamedTuple):
    """A tensor: its file, its type's name, its shape in torch's order, and its first byte."""

    file: int
    kind: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """A model's files. metadata: by full name. tensors: by GGUF's names."""

    paths: tuple[Path, ...]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """The model that a file, or a series that it is part of, holds.

        Raises:
            WeightError: not a readable GGUF file, or one of a series is missing.
            UnsupportedModel: an adapter, a vision encoder, or a type of tensor that the library
                cannot read.
        """
        paths = series(path)
        readers = [_read(each) for each in paths]
        metadata = _metadata(paths[0], readers[0])
        tensors: dict[str, Stored] = {}
        for number, (each, reader) in enumerate(zip(paths, readers, strict=True)):
            for tensor in reader.tensors:
                if tensor.name in tensors:
                    raise WeightError(f"{each}: tensor {tensor.name!r} is in another file, too")
                shape = tuple(int(n) for n in reversed(tensor.shape))
                offset, kind = int(tensor.data_offset), tensor.tensor_type.name
                tensors[tensor.name] = Stored(number, kind, shape, offset)
        found = cls(paths, metadata, tensors)
        found._check()
        return found

    @property
    def path(self) -> Path:
        """The first file, for messages."""
        return self.paths[0]

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it."""
        return str(self.require("general.architecture"))

    def require(self, key: str) -> Any:
        """Raises WeightError: the file lacks a key that the format demands."""
        if key not in self.metadata:
            raise WeightError(f"{self.path}: metadata {key!r} is missing")
        return self.metadata[key]

    def scalar(self, key: str) -> Any:
        """A value; one of several layers, if it is the same for all of them.

        Raises:
            UnsupportedModel: layers differ. WeightError: there are none.
        """
        found = self.metadata[key]
        if not isinstance(found, list):
            return found
        if not found:
            raise WeightError(f"{self.path}: metadata {key!r} is an empty list")
        if any(value != found[0] for value in found):
            raise UnsupportedModel(
                f"{self.path}: {key} differs between layers: {found[:4]}; supported: one value"
            )
        return found[0]

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            WeightError: it is missing and there is no default, or it is none.
        """
        if key not in self.metadata and default is not None:
            return default
        self.require(key)
        found = self.scalar(key)
        if type(found) is not int:
            raise WeightError(
                f"{self.path}: metadata {key!r} is {found!r}; expected a whole number"
            )
        return found

    def of_layers(self, key: str, num_layers: int) -> list[Any]:
        """A value for each layer, also of a key that has one for all; without the architecture.

        Raises:
            WeightError: it is missing, or there are fewer.
        """
        full = f"{self.architecture}.{key}"
        found = self.require(full)
        if not isinstance(found, list):
            return [found] * num_layers
        if len(found) < num_layers:
            raise WeightError(
                f"{self.path}: metadata {full!r} has {len(found)} values, and there are "
                f"{num_layers} layers"
            )
        # Layers that predict further tokens come last, and are not served.
        return found[:num_layers]

    @property
    def num_layers(self) -> int:
        """Those that are served: without the last ones, which predict several tokens."""
        further = self.number(f"{self.architecture}.nextn_predict_layers", 0)
        return self.number(f"{self.architecture}.block_count") - further

    def has(self, ending: str | tuple[str, ...]) -> bool:
        """Whether there is a tensor whose name ends so, or in one of these ways."""
        return any(name.endswith(ending) for name in self.tensors)

    def require_tensor(self, name: str) -> Stored:
        """Raises WeightError: there is no such tensor."""
        if name not in self.tensors:
            raise WeightError(f"{self.path}: tensor {name!r} is missing")
        return self.tensors[name]

    def values(self, name: str) -> npt.NDArray[np.float32]:
        """A small tensor, (features,) float32."""
        stored = self.tensors[name]
        data = np.memmap(self.paths[stored.file], mode="r", dtype=np.uint8)
        return dequantized(stored.kind, blocks(data, stored)).reshape(stored.shape)

    def _check(self) -> None:
        """Raises UnsupportedModel: it is no language model, or cannot be dequantised."""
        kind = self.metadata.get("general.type", "model")
        if kind != "model":
            raise UnsupportedModel(
                f"{self.path}: general.type is {kind!r}; supported: 'model', a whole language model"
            )
        for name, stored in self.tensors.items():
            if not is_readable(stored.kind):
                raise UnsupportedModel(
                    f"{self.path}: tensor {name!r} has the type {stored.kind}, which the gguf "
                    f"library cannot read{INSTEAD}"
                )


def series(path: Path) -> tuple[Path, ...]:
    """All files of the model that ``path`` is one of.

    Raises:
        WeightError: one of them is missing; names it.
    """
    match = SPLIT.fullmatch(path.name)
    if match is None:
        return (path,)
    stem, _, count = match.groups()
    numbers = range(1, int(count) + 1)
    paths = tuple(path.with_name(f"{stem}-{i:05}-of-{count}{path.suffix}") for i in numbers)
    missing = [each.name for each in paths if not each.is_file()]
    if missing or not paths:
        raise WeightError(f"{path}: {', '.join(missing[:3]) or 'a file'} of its series is missing")
    return paths


def bytes_of(stored: Stored) -> int:
    """How many bytes a tensor takes in its file."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[stored.kind]]
    return math.prod(stored.shape) // int(block) * int(size)


def blocks(data: npt.NDArray[np.uint8], stored: Stored) -> npt.NDArray[np.uint8]:
    """A tensor's bytes, (rows, bytes of a row). data: its file."""
    count = bytes_of(stored)
    rows = math.prod(stored.shape[:-1])
    return data[stored.offset : stored.offset + count].reshape(rows, -1)


def dequantized(kind: str, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(rows, bytes of a row) -> (rows, features) float32, as the library has it."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    plain = {"F32": np.float32, "F16": np.float16}.get(kind)
    values = np.ascontiguousarray(data).view(plain) if plain else data
    found: npt.NDArray[np.float32] = dequantize(values, GGMLQuantizationType[kind])
    return found


def is_readable(kind: str) -> bool:
    """Whether the library can dequantise a type."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    _, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    try:
        dequantized(kind, np.zeros((1, size), np.uint8))
    # The library has no list of the types that it can decode; it says so by this error alone.
    except NotImplementedError:
        return False
    return True


def _read(path: Path) -> Any:
    """The library's reader, which ends with an error wherever the file does."""
    import gguf

    class Reader(gguf.GGUFReader):  # type: ignore[misc]  # the library has no types
        data: Any

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            end = int(offset) + np.dtype(dtype).itemsize * int(count)
            if end > len(self.data):
                raise ValueError(f"it has {len(self.data)} bytes, and byte {end} is needed")
            # Slices of an array that knows of its file take three times as long.
            self.data = np.asarray(self.data)
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if int(raw_type) == gguf.GGUFValueType.ARRAY:
                count = int(self._get(orig_offs + 4, np.uint64)[0])
                if count > _MAX_ELEMENTS:
                    raise ValueError(f"an array has {count} elements; the limit is {_MAX_ELEMENTS}")
            return super()._get_field_parts(orig_offs, raw_type)

    try:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ValueError("it is a pointer of Git LFS, not the weights: run git lfs pull")
        reader = Reader(path)
        if reader.byte_order != "I":
            raise ValueError("it was written for machines of the other byte order")
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise WeightError(f"{path}: cannot be read as GGUF: {reason}") from error
    return reader


def _metadata(path: Path, reader: Any) -> dict[str, Any]:
    try:
        return {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:
        raise WeightError(f"{path}: its metadata cannot be read: {error}") from error
