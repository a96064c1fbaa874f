"""Blocks of 4 bits as the codes, zeros and scales that kernels take, without rounding anything.

Which types fit, with 32 inputs that share a scale d and what else there is:

- Q4_0: d * (code - 8). Q4_1: d * code + m. Both have a scale of 16 bits for each group.
- Q4_K: d * s * code - e * t, with s and t of 6 bits for each group, d and e for eight groups.

All of them are ``scale * (code - zero)``. The weights of a group whose d is 0 are all the same: its
codes become 0, its zero -1, and its scale that value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.weights.gguf.reader import GgufReader
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.quantized_layers import Codes, joined_codes
from atoll.weights.quantized_windows import Shape, Window, windows

GROUP = 32
_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]


class _Parts(NamedTuple):
    """codes: (rows, inputs). scales, offsets: (rows, groups): ``scale * code + offset``."""

    codes: _Bytes
    scales: _Floats
    offsets: _Floats


def packed_blocks(group: LayerTensors, shape: Shape, device: torch.device) -> Codes | None:
    """The 4-bit codes of a layer, parts and order included.

    None where they cannot stay: another type, or parts of a fused projection of which one has
    another type.

    Raises:
        WeightError: a tensor has another shape than the config says.
    """
    if not has_codes(group):
        return None
    found = windows(group, shape)
    parts = [_codes(group, window, device) for window in found.parts]
    return joined_codes(parts, found)


def has_codes(group: LayerTensors) -> bool:
    """Whether every part of a layer is of a type whose blocks can stay."""
    reader = group.reader
    return isinstance(reader, GgufReader) and all(
        group.has_part(part, "weight") and _stays(reader, group.name(part, "weight"))
        for part in group.parts()
    )


def _stays(reader: GgufReader, name: str) -> bool:
    if reader.kind(name) not in _READERS:
        return False
    order = reader.columns(name)
    return order is None or moved_groups(order) is not None


def moved_groups(order: Tensor, size: int = GROUP) -> Tensor | None:
    """Which group of ``size`` is where in an order of inputs that moves whole ones; else None."""
    if len(order) % size:
        return None
    grouped = order.view(-1, size)
    firsts = grouped[:, :1]
    is_whole = bool((firsts % size == 0).all()) and torch.equal(
        grouped, firsts + torch.arange(size)
    )
    return firsts.flatten() // size if is_whole else None


def _codes(group: LayerTensors, window: Window, device: torch.device) -> Codes:
    reader = group.reader
    assert isinstance(reader, GgufReader)
    shape = window.shape[::-1] if group.is_turned() else window.shape
    group.check_shape(window.part, "weight", shape)
    name = group.name(window.part, "weight")
    blocks = reader.stored(name, group.index(window.part), bits=4)[window.outputs]
    codes, zeros, scales = read_codes(reader.kind(name), blocks)
    order = reader.columns(name)
    moved = None if order is None else moved_groups(order)
    if order is not None and moved is not None:
        codes, zeros, scales = codes[:, order], zeros[:, moved], scales[:, moved]
    held = slice(window.inputs.start // GROUP, -(-window.inputs.stop // GROUP))
    groups = torch.arange(window.inputs.stop - window.inputs.start) // GROUP
    inputs = torch.from_numpy(codes[:, window.inputs].astype(np.int32))
    found = (inputs, *(torch.from_numpy(each[:, held].copy()) for each in (zeros, scales)))
    turned = [each.t().contiguous().to(device) for each in found]
    return Codes(turned[0], turned[1], turned[2], groups.to(device))


def read_codes(kind: str, blocks: _Bytes) -> tuple[_Bytes, _Floats, _Floats]:
    """Codes (rows, inputs), zeros and scales (rows, groups) of blocks (rows, bytes)."""
    codes, scales, offsets = _READERS[kind](blocks)
    is_constant = scales == 0
    grouped = codes.reshape(*scales.shape, GROUP)
    grouped[is_constant] = 0
    zeros = -offsets / np.where(is_constant, np.float32(1), scales)
    zeros[is_constant] = -1
    return grouped.reshape(codes.shape), zeros, np.where(is_constant, offsets, scales)


def _q4_0(blocks: _Bytes) -> _Parts:
    scales, codes = _halves(blocks, 1)
    return _Parts(codes, scales[0], -8 * scales[0])


def _q4_1(blocks: _Bytes) -> _Parts:
    (scales, offsets), codes = _halves(blocks, 2)
    return _Parts(codes, scales, offsets)


def _halves(blocks: _Bytes, count: int) -> tuple[list[_Floats], _Bytes]:
    """``count`` float16 values of each group, and codes: the lower nibbles are the first 16."""
    rows, start = len(blocks), 2 * count
    packed = blocks.reshape(rows, -1, start + GROUP // 2)
    floats = np.ascontiguousarray(packed[..., :start]).view(np.float16).astype(np.float32)
    return [floats[..., i] for i in range(count)], _nibbles(packed[..., start:]).reshape(rows, -1)


def _nibbles(packed: _Bytes) -> _Bytes:
    """(..., bytes) -> (..., 2, bytes): the lower and the higher nibble of each."""
    found: _Bytes = np.stack([packed & 15, packed >> 4], axis=-2)
    return found


def _q4_k(blocks: _Bytes) -> _Parts:
    from gguf.quants import Q4_K

    rows = len(blocks)
    packed = blocks.reshape(-1, 144)
    floats = np.ascontiguousarray(packed[:, :4]).view(np.float16).astype(np.float32)
    steps, least = Q4_K.get_scale_min(packed[:, 4:16])
    scales = floats[:, :1] * steps.astype(np.float32)
    offsets = -floats[:, 1:] * least.astype(np.float32)
    codes = _nibbles(packed[:, 16:].reshape(-1, 4, GROUP))
    return _Parts(codes.reshape(rows, -1), scales.reshape(rows, -1), offsets.reshape(rows, -1))


_READERS: dict[str, Callable[[_Bytes], _Parts]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}
