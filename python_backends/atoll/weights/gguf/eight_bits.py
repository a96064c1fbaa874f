"""Blocks of up to 8 bits without offsets, as the codes and scales that kernels take, exactly.

- Q8_0: d * code, with a d for 32 inputs. Q5_0 likewise, with d * (code - 16).
- Q6_K: d * s * (code - 32), with s of 8 bits for 16 inputs, and d for 256.

Q4_0 is kept so, too, where another part of a fused projection is. Scales are float32: a weight
takes 9 bits, and 10 in groups of 16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.weights.gguf.codes import moved_groups
from atoll.weights.gguf.reader import GgufReader
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.parts import Part, take
from atoll.weights.quantized_windows import Shape, Window, windows

_Bytes = npt.NDArray[np.uint8]
# Inputs that share a scale.
_GROUPS = {"Q8_0": 32, "Q5_0": 32, "Q6_K": 16, "Q4_0": 32}


class EightBits(NamedTuple):
    """What ``pack_int8_groups`` takes: codes (out, in) int8, scales (out, groups) float32."""

    codes: Tensor
    scales: Tensor


def packed_bytes(group: LayerTensors, shape: Shape, device: torch.device) -> EightBits | None:
    """The codes of a layer, parts and order included.

    None where they cannot stay: another type, or a rank's part that cuts a group in two.

    Raises:
        WeightError: a tensor has another shape than the config says.
    """
    if not has_bytes(group):
        return None
    found = windows(group, shape)
    size = min(_size(group, part) for part in group.parts())
    if found.inputs is not None and not _is_whole(found.inputs, size):
        return None
    parts = [_read(group, window, size) for window in found.parts]
    codes, scales = (torch.cat(each) for each in zip(*parts, strict=True))
    if found.rows is not None:
        codes, scales = take([codes], found.rows), take([scales], found.rows)
    if found.inputs is not None:
        codes = _held(codes, found.inputs, 1)
        scales = _held(scales, found.inputs, size)
    return EightBits(codes.contiguous().to(device), scales.contiguous().to(device))


def has_bytes(group: LayerTensors) -> bool:
    """Whether every part of a layer is of a type whose blocks can stay in 8 bits."""
    reader = group.reader
    return isinstance(reader, GgufReader) and all(
        group.has_part(part, "weight") and _stays(reader, group.name(part, "weight"))
        for part in group.parts()
    )


def _stays(reader: GgufReader, name: str) -> bool:
    size = _GROUPS.get(reader.kind(name))
    if size is None or reader.is_turned(name):
        return False
    order = reader.columns(name)
    return order is None or moved_groups(order, size) is not None


def _size(group: LayerTensors, part: str) -> int:
    assert isinstance(group.reader, GgufReader)
    return _GROUPS[group.reader.kind(group.name(part, "weight"))]


def _is_whole(inputs: Part, size: int) -> bool:
    """Whether no group is held in part."""
    return not any(n % size for n in (inputs.span.start, inputs.span.stop, inputs.num_filled))


def _held(found: Tensor, inputs: Part, size: int) -> Tensor:
    """The held columns, one for ``size`` inputs, and zeros behind them."""
    span = inputs.span
    return F.pad(found[:, span.start // size : span.stop // size], (0, inputs.num_filled // size))


def _read(group: LayerTensors, window: Window, size: int) -> tuple[Tensor, Tensor]:
    """A part's codes and scales, in groups of ``size`` inputs."""
    reader = group.reader
    assert isinstance(reader, GgufReader)
    group.check_shape(window.part, "weight", window.shape)
    name = group.name(window.part, "weight")
    blocks = reader.stored(name, group.index(window.part), bits=8)[window.outputs]
    kind = reader.kind(name)
    codes, scales = read_bytes(kind, blocks)
    order, own = reader.columns(name), _GROUPS[kind]
    moved = None if order is None else moved_groups(order, own)
    if order is not None and moved is not None:
        codes, scales = codes[:, order], scales[:, moved]
    scales = np.repeat(scales, own // size, 1)
    held = slice(window.inputs.start // size, -(-window.inputs.stop // size))
    found = codes[:, window.inputs], scales[:, held]
    return torch.from_numpy(found[0].copy()), torch.from_numpy(found[1].copy())


def read_bytes(kind: str, blocks: _Bytes) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Codes (rows, inputs) and scales (rows, groups) of blocks (rows, bytes)."""
    codes, scales = _READERS[kind](blocks)
    rows = len(blocks)
    return codes.reshape(rows, -1).astype(np.int8), scales.reshape(rows, -1)


_Parts = tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]


def _floats(packed: _Bytes) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(packed).view(np.float16).astype(np.float32)


def _q8_0(blocks: _Bytes) -> _Parts:
    packed = blocks.reshape(-1, 34)
    return packed[:, 2:].view(np.int8).astype(np.int16), _floats(packed[:, :2])


def _q4_0(blocks: _Bytes) -> _Parts:
    packed = blocks.reshape(-1, 18)
    codes = np.concatenate([packed[:, 2:] & 15, packed[:, 2:] >> 4], axis=1)
    return codes.astype(np.int16) - 8, _floats(packed[:, :2])


def _q5_0(blocks: _Bytes) -> _Parts:
    packed = blocks.reshape(-1, 22)
    # A fifth bit of each code, the first one's lowest.
    high = np.unpackbits(packed[:, 2:6], axis=1, bitorder="little")
    codes = np.concatenate([packed[:, 6:] & 15, packed[:, 6:] >> 4], axis=1)
    return (codes | high << 4).astype(np.int16) - 16, _floats(packed[:, :2])


def _q6_k(blocks: _Bytes) -> _Parts:
    """Of 128 inputs, 64 bytes have the lower four bits, and 32 bytes two more of four inputs."""
    packed = blocks.reshape(-1, 210)
    low, high = packed[:, :128].reshape(-1, 2, 1, 64), packed[:, 128:192].reshape(-1, 2, 1, 32)
    fours = (low >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)) & 15
    twos = (high >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3
    codes = fours.reshape(-1, 256) | twos.reshape(-1, 256) << 4
    steps = packed[:, 192:208].view(np.int8).astype(np.float32)
    return codes.astype(np.int16) - 32, _floats(packed[:, 208:]) * steps


_READERS: dict[str, Callable[[_Bytes], _Parts]] = {
    "Q8_0": _q8_0, "Q5_0": _q5_0, "Q6_K": _q6_k, "Q4_0": _q4_0,
}  # fmt: skip
